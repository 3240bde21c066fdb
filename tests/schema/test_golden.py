"""The OpenAPI document: what was agreed is what the application says."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from jsonschema_rs import Draft202012Validator
from promptgps_service.app import create_app
from promptgps_service.settings import Settings

GOLDEN = Path(__file__).with_name("openapi.json")
PROBLEM = "application/problem+json"
ALWAYS = {"400", "401", "413", "422", "503"}


@pytest.fixture(scope="module")
def document() -> dict[str, Any]:
    return create_app(Settings()).openapi()


def operations(document: dict[str, Any]) -> list[tuple[str, dict[str, Any]]]:
    """Every operation with its method and path."""
    return [
        (f"{method.upper()} {path}", operation)
        for path, methods in document["paths"].items()
        for method, operation in methods.items()
    ]


def test_the_document_is_the_golden_one(document: dict[str, Any]) -> None:
    renew = f"the API has changed; if that is meant: promptgps export-openapi > {GOLDEN}"
    assert json.loads(json.dumps(document)) == json.loads(GOLDEN.read_text()), renew


def test_every_endpoint_documents_its_problems(document: dict[str, Any]) -> None:
    for name, operation in operations(document):
        if "health" in operation["tags"]:
            continue
        answers = operation["responses"]
        wanted = ALWAYS | (
            {"404"} if "{" in name or "run" in str(operation.get("requestBody")) else set()
        )
        assert wanted - {"404"} <= answers.keys(), name
        for status, answer in answers.items():
            if not status.startswith("2"):
                content = answer["content"]
                assert content == {PROBLEM: {"schema": {"$ref": "#/components/schemas/Problem"}}}, (
                    f"{name} {status}"
                )
                assert answer["description"], f"{name} {status}"


@pytest.mark.parametrize(
    "path",
    [
        "/pools/{pool}",
        "/runs/{run}",
        "/runs/{run}/metrics",
        "/select_batch",
        "/outcomes",
        "/allocate_budget",
    ],
)
def test_endpoints_that_name_a_thing_document_that_it_may_not_be_there(
    document: dict[str, Any], path: str
) -> None:
    for operation in document["paths"][path].values():
        assert "404" in operation["responses"]


def test_every_endpoint_says_what_it_does_and_what_a_success_looks_like(
    document: dict[str, Any],
) -> None:
    for name, operation in operations(document):
        assert operation["summary"], name
        assert operation["description"], name
        successes = [
            answer for status, answer in operation["responses"].items() if status.startswith("2")
        ]
        assert successes, name
        assert all(answer["content"] for answer in successes), name


def test_every_reference_leads_somewhere_and_every_schema_is_one(document: dict[str, Any]) -> None:
    schemas = document["components"]["schemas"]
    for reference in _references(document):
        kind, _, name = reference.removeprefix("#/components/").partition("/")
        assert kind == "schemas"
        assert name in schemas, reference
    used = {reference.rpartition("/")[2] for reference in _references(document)}
    assert set(schemas) == used, "a schema that nobody refers to"
    for name, schema in schemas.items():
        Draft202012Validator({**schema, "components": {"schemas": schemas}, "$id": f"urn:{name}"})


def test_every_field_of_a_request_is_exact(document: dict[str, Any]) -> None:
    """Unknown fields are refused, and the document says so."""
    for name, schema in document["components"]["schemas"].items():
        if schema.get("type") == "object":
            assert schema.get("additionalProperties") is False, name


def test_settings_do_not_change_the_document(document: dict[str, Any]) -> None:
    assert create_app(Settings(api_keys="key", max_body_mb=1.0)).openapi() == document


def _references(node: Any) -> list[str]:
    if isinstance(node, dict):
        own = [node["$ref"]] if isinstance(node.get("$ref"), str) else []
        return own + [found for value in node.values() for found in _references(value)]
    if isinstance(node, list):
        return [found for value in node for found in _references(value)]
    return []
