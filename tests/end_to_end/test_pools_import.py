"""`promptgps pools import`: files of prompts into a running service, from the command line."""

from __future__ import annotations

import gzip
import json
import subprocess
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
from promptgps_client import PromptGPS
from pyarrow import feather

from tests.server import Server, command, environment


def imported(*arguments: str, url: str) -> subprocess.CompletedProcess[str]:
    """Run the command against a service."""
    return subprocess.run(
        command("pools", "import", *arguments),
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
        env=environment(PROMPTGPS_URL=url),
    )


def write(path: Path, first: int, count: int) -> Path:
    rows = [
        {"key": f"k{row}", "text": f"What is {row} + {row}?"} for row in range(first, first + count)
    ]
    text = "".join(json.dumps(row) + "\n" for row in rows)
    path.write_bytes(gzip.compress(text.encode()) if path.suffix == ".gz" else text.encode())
    return path


def test_files_are_added_to_a_pool_that_is_made(
    client: PromptGPS, server: Server, tmp_path: Path
) -> None:
    files = [write(tmp_path / "one.jsonl", 0, 5), write(tmp_path / "two.jsonl.gz", 3, 5)]
    done = imported("cli-sums", *map(str, files), url=server.url)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines() == [
        f"cli-sums: {files[0]}: 5 added, 0 there already; 5 prompts in all",
        f"cli-sums: {files[1]}: 3 added, 2 there already; 8 prompts in all",
    ]
    assert client.pool("cli-sums").prompts == 8
    again = imported("cli-sums", str(files[0]), url=server.url)
    assert "0 added, 5 there already; 8 prompts" in again.stdout


def test_a_file_of_a_trainers_own_preprocessing_is_taken_by_the_names_of_its_columns(
    client: PromptGPS, server: Server, tmp_path: Path
) -> None:
    rows = [
        {
            "data_source": "openai/gsm8k",
            "prompt": [{"role": "user", "content": f"What is {row} + {row}?"}],
            "ability": "math",
            "reward_model": {"style": "rule", "ground_truth": str(2 * row)},
            "extra_info": {"split": "train", "index": row},
        }
        for row in range(6)
    ]
    files = [tmp_path / "train.parquet", tmp_path / "train.feather", tmp_path / "train.json"]
    table = pa.Table.from_pylist(rows)
    pq.write_table(table, files[0])
    feather.write_feather(table, files[1])
    files[2].write_text(json.dumps(rows))
    names = ("--key", "extra_info.index", "--text", "prompt", "--domain", "data_source")
    done = imported("cli-verl", *map(str, files), *names, url=server.url)
    assert done.returncode == 0, done.stderr
    first, second, third = done.stdout.splitlines()
    assert first.startswith(
        f"cli-verl: {files[0]}: 6 added, 0 there already; 6 prompts in all; columns passed over: "
    )
    assert {"ability", "reward_model"} <= set(first.split("over: ")[1].split(", "))
    assert all("0 added, 6 there already; 6 prompts in all" in told for told in (second, third))
    client.create_run(
        name="cli-verl", pool="cli-verl", selection={"domain_quotas": {"openai/gsm8k": 1.0}}
    )
    batch = client.select_batch(run="cli-verl", sequence=0, batch_size=6, include_text=True)
    texts = dict(zip(batch.draws.prompt, batch.draws.text or [], strict=True))
    assert texts == {str(row): f"What is {row} + {row}?" for row in range(6)}


def test_equal_content_becomes_other_names_where_that_is_asked_for(
    client: PromptGPS, server: Server, tmp_path: Path
) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_text("".join(json.dumps({"key": key, "text": "the same"}) + "\n" for key in "abc"))
    done = imported("cli-merged", str(path), "--merge-equal", url=server.url)
    assert "1 added, 0 there already, 2 other names; 1 prompts" in done.stdout, done.stderr
    assert client.pool("cli-merged").prompts == 1


def test_a_pool_of_vectors_needs_to_know_their_length(
    client: PromptGPS, server: Server, tmp_path: Path
) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_text(json.dumps({"key": "a", "vector": [1.0, 2.0]}) + "\n")
    refused = imported("cli-vectors", str(path), "--vector", "vector", url=server.url)
    assert refused.returncode == 2
    assert "promptgps: there is no pool 'cli-vectors' yet: say --dimension" in refused.stderr
    done = imported(
        "cli-vectors", str(path), "--vector", "vector", "--dimension", "2", url=server.url
    )
    assert "1 added" in done.stdout, done.stderr
    assert client.pool("cli-vectors").dimension == 2


def test_what_goes_wrong_is_told_without_a_traceback(server: Server, tmp_path: Path) -> None:
    broken = tmp_path / "broken.jsonl"
    broken.write_text('{"key": "a", "text": "one"}\n{"key": "b"\n')
    unknown = tmp_path / "prompts.xls"
    unknown.write_text("")
    for file, url, told in (
        (broken, server.url, "row 1"),
        (unknown, server.url, "must end with one of .jsonl"),
        (broken, "http://127.0.0.1:9", "cannot connect"),
        (broken, "not-an-address", "must be an http(s) address"),
        (tmp_path / "nowhere.jsonl", server.url, "does not exist"),
    ):
        done = imported("cli-wrong", str(file), url=url)
        assert done.returncode == 2, done.stdout
        assert told in done.stderr
        assert "Traceback" not in done.stderr
