"""A run's settings, spelled out once and stored so."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

from promptgps_client.wire import ChangeRun, CreateRun, PoolShare, Reward, Selection

from promptgps_service.acquisition.choose import Rules
from promptgps_service.acquisition.presets import resolve
from promptgps_service.acquisition.reuse import Reuse
from promptgps_service.acquisition.utility import Aim


def spell_out(selection: Selection) -> Selection:
    """Every setting of the choice, from the preset where it was not given."""
    given = selection.model_dump(exclude_unset=True, exclude={"strategy"})
    # A null is a value only where it means something: the whole pool, nothing retired, no quotas.
    given = {name: value for name, value in given.items() if value is not None or name in NULLABLE}
    return Selection.model_validate(resolve(selection.strategy, given))


NULLABLE = {"candidate_factor", "retire_above", "domain_quotas"}


@dataclass(frozen=True)
class RunSettings:
    """Everything a run was opened with; ``selection`` has no gaps.

    Attributes:
        quotas_from: draw from which on the shares of the domains hold: earlier ones went by others,
            and are no debt.
    """

    pools: tuple[PoolShare, ...]
    rollouts_per_prompt: int
    reward: Reward
    seed: int
    warm_start_from: str | None
    selection: Selection
    quotas_from: int = 0

    @classmethod
    def of(cls, request: CreateRun) -> RunSettings:
        """Spell a request out."""
        shares = (
            request.pools if request.pools is not None else [PoolShare(pool=request.pool or "")]
        )
        return cls(
            pools=tuple(shares),
            rollouts_per_prompt=request.rollouts_per_prompt,
            reward=request.reward,
            seed=request.seed,
            warm_start_from=request.warm_start_from,
            selection=spell_out(request.selection),
        )

    def changed(self, request: ChangeRun, draws: int) -> RunSettings:
        """The settings after a change, made after so many draws.

        A new strategy brings its own presets.
        """
        selection = self.selection
        if request.selection is not None:
            given = request.selection.model_dump(exclude_unset=True)
            base = {} if "strategy" in given else selection.model_dump()
            if "predictor" in given:
                base.pop("predictor_parameters", None)
            selection = spell_out(Selection.model_validate(base | given))

        same_quotas = selection.domain_quotas == self.selection.domain_quotas
        return replace(
            self,
            rollouts_per_prompt=request.rollouts_per_prompt or self.rollouts_per_prompt,
            reward=request.reward
            if request.reward and not self.takes(request.reward)
            else self.reward,
            selection=selection,
            quotas_from=self.quotas_from if same_quotas else draws,
        )

    def takes(self, reward: Reward) -> bool:
        """Whether a reward asked for is the one there is, but for values that reports showed."""
        shown = {"values": self.reward.values} if reward.values is None else {}
        return reward.model_copy(update=shown) == self.reward

    def dump(self) -> dict[str, Any]:
        """As JSON."""
        return {
            "pools": [share.model_dump() for share in self.pools],
            "rollouts_per_prompt": self.rollouts_per_prompt,
            "reward": self.reward.model_dump(),
            "seed": self.seed,
            "warm_start_from": self.warm_start_from,
            "selection": self.selection.model_dump(),
        } | (
            {"quotas_from": self.quotas_from} if self.quotas_from else {}
        )  # what a run is opened with never has it

    @classmethod
    def load(cls, stored: dict[str, Any]) -> RunSettings:
        """From ``dump``."""
        return cls(
            pools=tuple(PoolShare.model_validate(share) for share in stored["pools"]),
            rollouts_per_prompt=stored["rollouts_per_prompt"],
            reward=Reward.model_validate(stored["reward"]),
            seed=stored["seed"],
            warm_start_from=stored["warm_start_from"],
            selection=Selection.model_validate(stored["selection"]),
            quotas_from=stored.get("quotas_from", 0),
        )

    def predictor(self) -> tuple[str, dict[str, Any]]:
        """Name and parameters of the predictor."""
        return self.selection.predictor or "hierarchical", dict(
            self.selection.predictor_parameters or {}
        )

    def rules(self, rollouts: int) -> Rules:
        """How to choose a batch of groups of ``rollouts``."""
        s = self.selection
        low, high = s.band or [0.2, 0.8]
        aim = Aim(s.utility or "mixed", rollouts, _number(s.target), (low, high), _number(s.bonus))
        return Rules(aim, s.candidate_factor, _number(s.uniform_share), _number(s.diversity))

    def reuse(self) -> Reuse:
        """When a prompt may come again."""
        cooldown = None if self.selection.cooldown == "auto" else self.selection.cooldown
        return Reuse(
            cooldown if isinstance(cooldown, int) else None,
            int(_number(self.selection.pending_steps)),
        )


def _number(value: float | None) -> float:
    if value is None:
        raise ValueError("a spelled-out setting is missing")
    return value
