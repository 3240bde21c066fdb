"""Schemathesis over the whole API, in this process.

Whatever the document allows or forbids, no 5xx and no surprise.
"""

from __future__ import annotations

import re
import warnings
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import schemathesis
from promptgps_service.app import create_app
from promptgps_service.flow.keyring import add_key
from promptgps_service.settings import Settings
from schemathesis.config import SchemathesisConfig
from schemathesis.engine import events, from_schema
from schemathesis.python import asgi

from tests.databases import copied_file

SEED = 20260211
ADMIN = {"Authorization": "Bearer sesame"}
CASES = [
    ("coverage", "admin"),
    *(("fuzzing", caller) for caller in ("admin", "limited", "stranger", "open")),
]
NAME = "prepared"  # of a pool and of a run
PROMPTS = list("abcdefghij0123456789")
# examples of each operation; coverage takes the boundaries of the document
PHASES = {"coverage": 1, "fuzzing": 60}
# Rules between columns (exactly one of two, equal lengths)
# are told in words: JSON Schema cannot say them all.
REFUSALS = ["400", "401", "403", "404", "405", "409", "413", "415", "422", "429"]
UNSAID = ("positive_data_acceptance",)
# the document wants a key, an open service does not
KEYLESS = ("ignored_auth", "negative_data_rejection")
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,127}")


@pytest.fixture
def app(sqlite_template: Path, tmp_path: Path, caller: str) -> Iterator[Any]:
    """An application on a database of its own, started by schemathesis' own client."""
    url = copied_file(sqlite_template, tmp_path)
    keys = "" if caller == "open" else "sesame"
    host = "testserver"  # what starlette's test client calls every service
    yield create_app(
        Settings(
            database_url=url,
            device="cpu",
            torch_threads=1,
            max_body_mb=1.0,
            api_keys=keys,
            allowed_hosts=host,
        )
    )
    asgi.shutdown_lifespans()


def headers_of(app: Any, caller: str) -> dict[str, str]:
    """What a caller sends; keys of the database are made here."""
    if caller == "admin":
        return ADMIN
    if caller in ("open", "stranger"):
        return {} if caller == "open" else {"Authorization": "Bearer guessed"}
    key = add_key(app.state.context.store, caller, [f"{NAME}*"], read_only=False, days=None)
    app.state.keyring._refresh()
    return {"Authorization": f"Bearer {key}"}


def configuration(phase: str, headers: dict[str, str]) -> SchemathesisConfig:
    """One phase alone, with every check of the answers."""
    return SchemathesisConfig.from_dict(
        {
            "seed": SEED,
            "suppress-health-check": ["all"],
            "generation": {
                "max-examples": PHASES[phase],
                "deterministic": True,
                "no-shrink": True,
                "database": "none",
            },
            "headers": headers,
            "checks": {
                name: {"enabled": False} for name in (*UNSAID, *(() if headers else KEYLESS))
            }
            | ({"negative_data_rejection": {"expected-statuses": REFUSALS}} if headers else {}),
            "phases": {
                name: {"enabled": name == phase} for name in (*PHASES, "examples", "stateful")
            },
        }
    )


def prepare(app: Any) -> None:
    """A pool with prompts, a run on it and some draws."""
    with asgi.get_client(app) as client:
        client.headers.update(ADMIN)
        body = {"name": NAME, "embedding": {"kind": "given", "dimension": 2}}
        assert client.post("/pools", json=body).status_code == 201
        columns = {"keys": PROMPTS, "vectors": [[1.0, float(row)] for row in range(20)]}
        assert client.post(f"/pools/{NAME}/prompts", json=columns).status_code == 200
        run = {"name": NAME, "pool": NAME, "rollouts_per_prompt": 4}
        assert client.post("/runs", json=run).status_code == 201
        assert client.post("/select_batch", json={"run": NAME, "batch_size": 8}).status_code == 200


def aim(_context: Any, body: Any) -> Any:
    """Let a request speak of what there is, so that it gets further than a 404.

    What is wrong in it stays wrong.
    """
    if not isinstance(body, dict):
        return body
    there = {"draw_id": [f"d1-{number}" for number in range(8)]}
    there |= dict.fromkeys(("keys", "prompt", "candidates", "exclude"), PROMPTS)
    aimed = dict(body)
    for field in ("run", "pool"):
        if isinstance(body.get(field), str) and _NAME.fullmatch(body[field]):
            aimed[field] = NAME
    for field, known in there.items():
        column = body.get(field)
        if isinstance(column, list) and all(
            isinstance(value, str) and 0 < len(value) <= 64 for value in column
        ):
            aimed[field] = [known[row % len(known)] for row in range(len(column))]
    return aimed


@pytest.mark.timeout(1200)  # thousands of requests, on a machine that may do much else
@pytest.mark.parametrize(("phase", "caller"), CASES, ids=["-".join(case) for case in CASES])
def test_every_answer_is_as_documented(app: Any, phase: str, caller: str) -> None:
    prepare(app)
    config = configuration(phase, headers_of(app, caller))
    schema = schemathesis.openapi.from_asgi("/openapi.json", app, config=config, headers=ADMIN)
    schema.hook("map_body")(aim)
    failures: dict[str, str] = {}
    answers: Counter[str] = Counter()
    with warnings.catch_warnings():
        warnings.simplefilter("default")  # schemathesis' own
        for event in from_schema(schema).execute():
            if isinstance(event, events.ScenarioFinished):
                collect(event, failures, answers)
            elif isinstance(event, events.FatalError):
                raise event.exception
            elif isinstance(event, events.NonFatalError):
                failures[f"{event.label}: {event.value!r}"] = str(event.info)
    assert not failures, "\n\n".join(
        f"{title}\n{text}" for title, text in list(failures.items())[:10]
    )
    assert {label.rpartition(" ")[0] for label in answers} == set(operations(app))
    assert not any(label.endswith(" 5") for label in answers)


def operations(app: Any) -> list[str]:
    """Every operation of the document, as schemathesis calls it."""
    return [
        f"{method.upper()} {path}"
        for path, methods in app.openapi()["paths"].items()
        for method in methods
    ]


def collect(
    event: events.ScenarioFinished, failures: dict[str, str], answers: Counter[str]
) -> None:
    """The failed checks of a scenario, and how often each operation gave which kind of answer."""
    for case_id, interaction in event.recorder.interactions.items():
        if interaction.response is not None:
            case = event.recorder.cases[case_id].value
            answers[f"{case.operation.label} {interaction.response.status_code // 100}"] += 1
    for case_id, checks in event.recorder.checks.items():
        for check in checks:
            if check.failure_info is not None:
                failure = check.failure_info.failure
                case = event.recorder.cases[case_id].value
                title = f"{case.operation.label}: {check.name}: {failure.title}"
                failures.setdefault(
                    title, f"{failure.message}\n{check.failure_info.code_sample}"[:2000]
                )
