"""The package as a whole: what importing it costs, and that the two clients are the same."""

from __future__ import annotations

import ast
import inspect
import subprocess
import sys
from pathlib import Path

import promptgps_client
import pytest
from promptgps_client import AsyncPromptGPS, PromptGPS
from promptgps_client.errors import PromptGPSError
from promptgps_client.transport import OptionFields, Options

HEAVY = ("torch", "numpy", "pyarrow", "sqlalchemy", "fastapi", "promptgps_service")


def test_importing_it_is_light() -> None:
    script = (
        f"import sys, promptgps_client; print([name for name in {HEAVY} if name in sys.modules])"
    )
    run = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert run.stdout.strip() == "[]"


def methods(kind: type) -> dict[str, inspect.Signature]:
    return {
        name: inspect.signature(method)
        for name, method in inspect.getmembers(kind, inspect.isfunction)
        if not name.startswith("_")
    }


def test_both_clients_have_the_same_methods() -> None:
    assert methods(PromptGPS) == methods(AsyncPromptGPS)
    assert len(methods(PromptGPS)) == 30


@pytest.mark.parametrize("name", methods(PromptGPS))
def test_methods_are_documented_and_keyword_only_but_for_names(name: str) -> None:
    ours = getattr(PromptGPS, name)
    theirs = getattr(AsyncPromptGPS, name)
    assert ours.__name__ == theirs.__name__ == name
    assert ours.__doc__
    assert theirs.__doc__
    _, *parameters = inspect.signature(ours).parameters.values()
    by_place = [
        parameter.name
        for parameter in parameters
        if parameter.kind is parameter.POSITIONAL_OR_KEYWORD
    ]
    assert set(by_place) <= {"name", "pool", "run", "path", "tag"}
    if name != "with_options":  # its names are those of `Options`
        by_name = [
            parameter.name for parameter in parameters if parameter.kind is parameter.KEYWORD_ONLY
        ]
        assert [
            name
            for name in by_name
            if f"{name}:" not in ours.__doc__ and f"`{name}`" not in ours.__doc__
        ] == []


def test_options_have_one_set_of_names() -> None:
    assert set(OptionFields.__annotations__) == set(Options.__dataclass_fields__)


def test_one_file_names_httpx() -> None:
    naming = set()
    for path in Path(promptgps_client.__file__).parent.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            names += [node.module or ""] if isinstance(node, ast.ImportFrom) else []
            naming |= {path.name for name in names if name.split(".")[0] in ("httpx", "stamina")}
    assert naming == {"transport.py"}


def test_every_error_is_public_and_in_one_tree() -> None:
    def below(kind: type[Exception]) -> set[type[Exception]]:
        return {kind}.union(*(below(child) for child in kind.__subclasses__()))

    assert {kind.__name__ for kind in below(PromptGPSError)} <= set(promptgps_client.__all__)
    assert all(hasattr(promptgps_client, name) for name in promptgps_client.__all__)
