"""The whole course of a run, however many answers it takes; of an older service, too."""

from __future__ import annotations

from typing import Any
from urllib.parse import parse_qs, urlsplit

import promptgps_client as gps
import pytest

from .conftest import Asker, Reply, Service


def page(first: int, last: int, following: int | None, **series: list[float | None]) -> Reply:
    versions = [float(version) for version in range(first, last)]
    body: dict[str, Any] = {
        "run": "r",
        "predictor": "hierarchical",
        "served": "beta",
        "steps": len(versions),
        "series": {"model_version": versions, **series},
    }
    return Reply(body=body if following is None else body | {"next": following})


def asked(service: Service) -> list[dict[str, list[str]]]:
    return [parse_qs(urlsplit(seen.path).query) for seen in service.seen]


def test_all_pages_are_asked_for_and_joined(service: Service, ask: Asker) -> None:
    service.says(
        page(1, 3, 3, log_loss=[0.5, 0.4]),
        page(3, 5, 5, log_loss=[0.3, None], late=[1.0, 2.0]),
        page(5, 6, None, late=[3.0]),
    )
    found = ask("metrics", "r")
    assert (found.steps, found.next, found.served) == (5, None, "beta")
    assert found.series == {
        "model_version": [1, 2, 3, 4, 5],
        "log_loss": [0.5, 0.4, 0.3, None, None],
        "late": [None, None, 1, 2, 3],
    }
    assert [query["since"] for query in asked(service)] == [["0"], ["3"], ["5"]]


def test_what_is_asked_for_goes_with_every_page(service: Service, ask: Asker) -> None:
    service.says(page(7, 8, 12), page(12, 13, None))
    found = ask("metrics", "r", since=7, series=["log_loss", "uniform_"], every=5)
    assert found.series["model_version"] == [7, 12]
    for query, since in zip(asked(service), ("7", "12"), strict=True):
        assert query == {"since": [since], "every": ["5"], "series": ["log_loss,uniform_"]}


def test_one_series_is_one_name(service: Service, ask: Asker) -> None:
    service.says(page(1, 2, None))
    ask("metrics", "r", series="log_loss")
    assert asked(service)[0]["series"] == ["log_loss"]


def test_a_service_that_knows_no_pages_answers_all_at_once(service: Service, ask: Asker) -> None:
    service.says(page(1, 9, None))
    assert ask("metrics", "r").steps == 8
    assert len(service.seen) == 1


def test_a_page_that_fails_is_an_error_and_not_a_shorter_course(
    service: Service, ask: Asker
) -> None:
    service.says(page(1, 3, 3), Reply(status=404, body={}))
    with pytest.raises(gps.NotFound):
        ask("metrics", "r")
