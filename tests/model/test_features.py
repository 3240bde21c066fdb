"""Features of prompts some of which have texts or pass rates: every combination builds."""

from __future__ import annotations

import torch
from hypothesis import given
from hypothesis import strategies as st
from promptgps_service.model.features import Frame, fit_frame
from torch import Tensor

WIDTH = 4  # of the surface
BLOCKS = st.sampled_from(
    ["absent", "without columns", "unknown", "known", "some known", "one known", "constant"]
)


def block(kind: str, rows: int, width: int, seed: int) -> Tensor | None:
    """A raw block of that kind."""
    made = torch.randn(rows, width, generator=torch.Generator().manual_seed(seed))
    if kind == "absent":
        return None
    if kind == "without columns":
        return made[:, :0]
    if kind == "unknown":
        return torch.full_like(made, torch.nan)
    if kind == "some known":
        made[seed % 2 :: 2] = torch.nan
    if kind == "one known":
        made[1:] = torch.nan
    if kind == "constant":
        made[:] = 1.5
    return made


def raw(rows: int, surface: str, offline: str, seed: int) -> dict[str, Tensor]:
    """Raw blocks of prompts, all of which have an embedding."""
    found = {
        "embedding": block("known", rows, 3, seed),
        "surface": block(surface, rows, WIDTH, seed + 1),
        "offline": block(offline, rows, 1, seed + 2),
    }
    return {name: made for name, made in found.items() if made is not None}


@given(
    framing=st.tuples(st.integers(1, 6), BLOCKS, BLOCKS),
    own=st.tuples(st.integers(1, 6), BLOCKS, BLOCKS),
    seed=st.integers(0, 9),
)
def test_whatever_is_known_of_the_prompts_and_of_those_that_frame_them(
    framing: tuple[int, str, str], own: tuple[int, str, str], seed: int
) -> None:
    frame = fit_frame(raw(*framing, seed))
    features = frame.features(raw(*own, seed + 50))
    assert features.x.shape == (own[0], features.blocks[-1].stop)
    assert bool(features.x.isfinite().all())
    new = frame.apply({"embedding": torch.ones(2, 3)})
    assert bool(new.isfinite().all())


def columns(frame: Frame, x: Tensor, name: str) -> Tensor:
    (found,) = (
        part
        for part in frame.features({"embedding": torch.zeros(1, 3)}).blocks
        if part.name == name
    )
    return x[:, found.start : found.stop]


def test_what_is_not_known_is_average_in_each_block() -> None:
    frame = fit_frame(raw(6, "some known", "some known", 0))
    assert [block.name for block in frame.blocks] == ["embedding", "surface", "offline", "waves"]
    x = frame.features(raw(6, "one known", "absent", 1)).x
    for name in ("surface", "waves"):
        assert not columns(frame, x, name)[1:].any()
        assert columns(frame, x, name)[0].any()
    assert not columns(frame, x, "offline").any()


def test_a_frame_is_taken_from_the_rows_that_are_known() -> None:
    told = raw(6, "known", "absent", 0)
    wider = {
        name: torch.cat([part, torch.full_like(part, torch.nan)]) for name, part in told.items()
    }
    wider["embedding"] = torch.cat([told["embedding"]] * 2)
    one = fit_frame(told)
    other = fit_frame(wider)
    for name in ("surface", "waves"):
        (a,), (b,) = (
            [block for block in frame.blocks if block.name == name] for frame in (one, other)
        )
        torch.testing.assert_close((a.mean, a.scale), (b.mean, b.scale))
        assert abs(a.energy - b.energy) < 1e-6


def test_rows_that_come_later_change_nothing_for_those_before_them() -> None:
    frame = fit_frame(raw(4, "known", "known", 3))
    first = raw(4, "known", "known", 3)
    later = raw(3, "unknown", "unknown", 4)
    both = {name: torch.cat([first[name], later[name]]) for name in first}
    torch.testing.assert_close(frame.apply(both)[:4], frame.apply(first), rtol=0, atol=0)
