"""Files of prompts as requests: what is sent of each ending and form, and how it is named."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pandas as pd
import promptgps_client as gps
import pytest
from promptgps_client import calls

from .conftest import Asker, Reply, Service

ROWS = [{"key": "a", "text": "one"}, {"key": "b", "text": "two"}]
ADDED = {"added": 2, "duplicates": 0, "total": 2}


def lines(body: Any) -> list[Any]:
    text = body.read_bytes() if isinstance(body, Path) else body
    return [
        json.loads(line) for line in text.removeprefix(b"\xef\xbb\xbf").splitlines() if line.strip()
    ]


@pytest.mark.parametrize(
    ("name", "kind", "encoding"),
    [
        ("prompts.jsonl", "application/jsonl", None),
        ("prompts.JSONL", "application/jsonl", None),
        ("prompts.jsonl.gz", "application/jsonl", "gzip"),
        ("prompts.ndjson", "application/jsonl", None),
        ("train.parquet", "application/vnd.apache.parquet", None),
        ("data-00000-of-00001.arrow", "application/vnd.apache.arrow.file", None),
        ("prompts.feather", "application/vnd.apache.arrow.file", None),
        ("prompts.csv", "text/csv", None),
        ("prompts.csv.gz", "text/csv", "gzip"),
    ],
)
def test_a_file_is_sent_as_it_is(
    service: Service, ask: Asker, tmp_path: Path, name: str, kind: str, encoding: str | None
) -> None:
    (tmp_path / name).write_bytes(b"\x00what it holds is the service's part\n")
    service.says(Reply(503), Reply(200, ADDED))
    assert ask("add_prompts_file", "p", tmp_path / name).total == 2
    assert [seen.body for seen in service.seen] == [(tmp_path / name).read_bytes()] * 2
    assert service.seen[0].headers["content-type"] == kind
    assert service.seen[0].headers.get("content-encoding") == encoding
    assert service.seen[0].path == "/pools/p/prompts"


def test_columns_go_by_the_names_that_are_given(
    service: Service, ask: Asker, tmp_path: Path, caplog: Any
) -> None:
    (tmp_path / "train.parquet").write_bytes(b"PAR1")
    service.says(Reply(200, ADDED | {"ignored_columns": ["reward_model", "ability"], "aliases": 1}))
    names = {
        "key": "extra_info.index",
        "text": "prompt",
        "domain": "data source&more",
        "vector": "v",
        "prior_successes": "k",
        "prior_trials": "n",
        "on_equal_content": "merge",
    }
    assert ask("add_prompts_file", "p", tmp_path / "train.parquet", **names).aliases == 1
    assert service.seen[0].path == (
        "/pools/p/prompts?key=extra_info.index&text=prompt&domain=data+source%26more&vector=v&prior_successes=k"
        "&prior_trials=n&on_equal_content=merge"
    )
    assert "train.parquet: columns passed over: reward_model, ability" in caplog.text


@pytest.mark.parametrize(
    ("form", "as_it_is"),
    [
        (
            lambda path: pd.DataFrame(ROWS).to_json(path, orient="records", lines=True),
            True,
        ),  # as datasets does
        (lambda path: pd.DataFrame(ROWS).to_json(path, orient="records"), False),
        (lambda path: pd.DataFrame(ROWS).to_json(path, orient="records", indent=2), False),
        (lambda path: pd.DataFrame(ROWS).to_json(path), False),
        (lambda path: path.write_text(json.dumps(ROWS, indent=1)), False),
        (lambda path: path.write_bytes(b"\xef\xbb\xbf" + json.dumps(ROWS).encode()), False),
        (
            lambda path: path.write_bytes(
                b"\xef\xbb\xbf" + b"\r\n".join(json.dumps(row).encode() for row in ROWS)
            ),
            True,
        ),
    ],
    ids=[
        "pandas lines",
        "pandas records",
        "pandas records on many lines",
        "pandas",
        "list",
        "with mark",
        "lines with mark",
    ],
)
def test_json_in_each_form_that_programs_write(tmp_path: Path, form: Any, as_it_is: bool) -> None:
    path = tmp_path / "prompts.json"
    form(path)
    call = calls.add_prompts_file("p", path)
    assert call.headers["Content-Type"] == "application/jsonl"
    assert lines(call.body) == ROWS
    assert isinstance(call.body, Path) == as_it_is


def test_json_in_the_apis_own_form_is_sent_as_such(tmp_path: Path) -> None:
    path = tmp_path / "prompts.json"
    path.write_text(json.dumps({"keys": ["a"], "texts": ["one"]}, indent=1))
    call = calls.add_prompts_file("p", path)
    assert (call.headers["Content-Type"], call.body) == ("application/json", path)
    path.write_text(json.dumps(ROWS[0]))
    assert lines(calls.add_prompts_file("p", path).body) == ROWS[:1]


@pytest.mark.parametrize(
    ("content", "told"),
    [("{", "is no JSON"), ("", "is no JSON"), ("3", "holds no records, but int")],
)
def test_json_that_holds_no_prompts_is_told(tmp_path: Path, content: str, told: str) -> None:
    path = tmp_path / "prompts.json"
    path.write_text(content)
    with pytest.raises(gps.InvalidRequest, match=told):
        calls.add_prompts_file("p", path)
