"""Files as pandas, polars, datasets, pyarrow and RL trainers' preprocessing scripts write them."""

from __future__ import annotations

import csv
import datetime
import decimal
import gzip
import io
import json
import tempfile
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pandas as pd
import polars as pl
import pyarrow as pa
import pyarrow.feather as feather
import pyarrow.parquet as pq
import pytest
from promptgps_service.errors import Invalid
from promptgps_service.pools.checks import BOUNDS
from promptgps_service.pools.lines import read_csv, read_json_lines
from promptgps_service.pools.mapping import ColumnMapping
from promptgps_service.pools.raw import RawChunk
from promptgps_service.pools.reading import Task, Upload, checked
from promptgps_service.pools.tables import read_arrow, read_parquet

READERS: dict[str, Callable[..., Any]] = {
    "lines": read_json_lines,
    "csv": read_csv,
    "parquet": read_parquet,
    "arrow": read_arrow,
}


@dataclass
class Read:
    """What came of a file."""

    keys: list[Any] = field(default_factory=list)
    texts: list[Any] = field(default_factory=list)
    domains: list[Any] = field(default_factory=list)
    trials: list[Any] = field(default_factory=list)
    vectors: list[Any] = field(default_factory=list)
    ignored: list[str] = field(default_factory=list)


def read(kind: str, body: bytes, **paths: str) -> Read:
    """Read a file as the service does, without a process of its own."""
    found = Read()
    items = READERS[kind](io.BytesIO(body), ColumnMapping(paths), BOUNDS)

    def chunks() -> Any:
        for item in items:
            if isinstance(item, RawChunk):
                yield item
            else:
                found.ignored = item

    for chunk in checked(chunks()):
        nothing = [None] * chunk.rows
        found.keys += chunk.keys or nothing
        found.texts += chunk.texts or nothing
        found.domains += chunk.domains or nothing
        found.trials += chunk.prior_trials or nothing
        found.vectors += nothing if chunk.vectors is None else chunk.vectors.tolist()
    return found


def refusal(kind: str, body: bytes, **paths: str) -> tuple[str, int | None, str]:
    with pytest.raises(Invalid) as caught:
        read(kind, body, **paths)
    (fault,) = caught.value.faults
    return fault.field, fault.row, fault.detail


def parquet(columns: dict[str, Any]) -> bytes:
    file = io.BytesIO()
    pq.write_table(pa.table(columns), file)
    return file.getvalue()


def written(write: Callable[[Any], Any]) -> bytes:
    file = io.BytesIO()
    write(file)
    return file.getvalue()


TEXTS = ["What is 1 + 1?", "Was ist größer?", "三加四?"]
FRAME = {"key": ["a", "b", "c"], "text": TEXTS, "domain": ["x", None, "y"]}


def wide_frame() -> pd.DataFrame:
    """With an index that pandas writes as a column of its own."""
    return pd.DataFrame(FRAME, index=[7, 8, 9])


def lines_of_polars() -> bytes:
    return written(pl.DataFrame(FRAME).write_ndjson)


FILES: dict[str, tuple[str, Callable[[], bytes]]] = {
    "pandas parquet": ("parquet", lambda: written(wide_frame().to_parquet)),
    "pandas parquet zstd": (
        "parquet",
        lambda: written(lambda f: wide_frame().to_parquet(f, compression="zstd")),
    ),
    "pandas categories": (
        "parquet",
        lambda: written(wide_frame().astype({"domain": "category"}).to_parquet),
    ),
    "pandas arrow strings": (
        "parquet",
        lambda: written(wide_frame().convert_dtypes(dtype_backend="pyarrow").to_parquet),
    ),
    "pandas jsonl": ("lines", lambda: wide_frame().to_json(orient="records", lines=True).encode()),
    "pandas csv": ("csv", lambda: wide_frame().to_csv(index=False).encode()),
    "pandas feather": ("arrow", lambda: written(lambda f: feather.write_feather(wide_frame(), f))),
    "polars parquet": ("parquet", lambda: written(pl.DataFrame(FRAME).write_parquet)),
    "polars views": ("parquet", lambda: written(lambda f: pq.write_table(polars_views(), f))),
    "polars categories": (
        "parquet",
        lambda: written(
            pl.DataFrame(FRAME).with_columns(pl.col("domain").cast(pl.Categorical)).write_parquet
        ),
    ),
    "polars enum": (
        "arrow",
        lambda: written(
            pl.DataFrame(FRAME).with_columns(pl.col("domain").cast(pl.Enum(["x", "y"]))).write_ipc
        ),
    ),
    "polars ipc": ("arrow", lambda: written(pl.DataFrame(FRAME).write_ipc)),
    "polars ipc zstd": (
        "arrow",
        lambda: written(lambda f: pl.DataFrame(FRAME).write_ipc(f, compression="zstd")),
    ),
    "polars ipc stream": ("arrow", lambda: written(pl.DataFrame(FRAME).write_ipc_stream)),
    "polars ndjson": ("lines", lines_of_polars),
    "polars csv": ("csv", lambda: written(pl.DataFrame(FRAME).write_csv)),
    "mark and carriage returns": (
        "lines",
        lambda: b"\xef\xbb\xbf" + lines_of_polars().replace(b"\n", b"\r\n"),
    ),
    "blank lines, no last end": (
        "lines",
        lambda: b"\n \r\n" + lines_of_polars().replace(b"\n", b"\n\n").rstrip(),
    ),
    "gzip": ("lines", lambda: gzip.compress(lines_of_polars())),
    "gzip of several members": (
        "lines",
        lambda: b"".join(
            gzip.compress(line) for line in lines_of_polars().splitlines(keepends=True)
        ),
    ),
    "zstd": ("lines", lambda: pa.compress(lines_of_polars(), codec="zstd", asbytes=True)),
    "csv with a mark": ("csv", lambda: b"\xef\xbb\xbf" + written(pl.DataFrame(FRAME).write_csv)),
}


def polars_views() -> pa.Table:
    return pa.table({name: pa.array(values, pa.string_view()) for name, values in FRAME.items()})


@pytest.mark.parametrize(("kind", "make"), FILES.values(), ids=FILES.keys())
def test_what_data_frames_write_is_read(kind: str, make: Callable[[], bytes]) -> None:
    found = read(kind, make())
    assert (found.keys, found.texts, found.domains) == (FRAME["key"], TEXTS, FRAME["domain"])
    assert found.ignored in ([], ["__index_level_0__"])


def test_what_datasets_writes_is_read(tmp_path: Any) -> None:
    datasets = pytest.importorskip("datasets")
    made = datasets.Dataset.from_dict(FRAME)
    made.save_to_disk(tmp_path / "saved")
    (stream,) = (tmp_path / "saved").glob("*.arrow")
    made.to_parquet(tmp_path / "made.parquet")
    made.to_json(tmp_path / "made.jsonl")
    for kind, path in (
        ("arrow", stream),
        ("parquet", tmp_path / "made.parquet"),
        ("lines", tmp_path / "made.jsonl"),
    ):
        found = read(kind, path.read_bytes())
        assert (found.keys, found.texts, found.domains) == (FRAME["key"], TEXTS, FRAME["domain"])


# ---- preprocessing scripts -----------------------------------------------------------------------


def verl_rows() -> list[dict[str, Any]]:
    """As verl's `gsm8k.py` makes them."""
    return [
        {
            "data_source": "openai/gsm8k",
            "prompt": [{"role": "user", "content": text}],
            "ability": "math",
            "reward_model": {"style": "rule", "ground_truth": str(row)},
            "extra_info": {"split": "train", "index": row, "answer": str(row), "question": text},
        }
        for row, text in enumerate(TEXTS)
    ]


SHAPES: dict[str, tuple[str, bytes, dict[str, str], list[str]]] = {
    "verl by pandas": (
        "parquet",
        written(pd.DataFrame(verl_rows()).to_parquet),
        {"text": "prompt", "key": "extra_info.index", "domain": "data_source"},
        ["ability", "reward_model"],
    ),
    "verl by datasets' json": (
        "lines",
        "\n".join(map(json.dumps, verl_rows())).encode(),
        {"text": "prompt", "key": "extra_info.index", "domain": "data_source"},
        ["ability", "reward_model"],
    ),
    "verl with structs as text": (
        "parquet",
        parquet(
            {
                "prompt": [row["prompt"] for row in verl_rows()],
                "extra_info": [json.dumps(row["extra_info"]) for row in verl_rows()],
                "data_source": ["openai/gsm8k"] * 3,
            }
        ),
        {"text": "prompt", "key": "extra_info.index", "domain": "data_source"},
        [],
    ),
    "slime": (
        "lines",
        "\n".join(
            json.dumps(
                {
                    "prompt": row["prompt"] if index % 2 else row["prompt"][0]["content"],
                    "label": "4",
                    "metadata": {"id": index, "source": "openai/gsm8k"},
                }
            )
            for index, row in enumerate(verl_rows())
        ).encode(),
        {"text": "prompt", "key": "metadata.id", "domain": "metadata.source"},
        ["label"],
    ),
    "OpenRLHF": (
        "lines",
        "\n".join(
            json.dumps({"input": text, "answer": "4", "datasource": "openai/gsm8k", "id": index})
            for index, text in enumerate(TEXTS)
        ).encode(),
        {"text": "input", "key": "id", "domain": "datasource"},
        ["answer"],
    ),
}


@pytest.mark.parametrize(("kind", "body", "paths", "ignored"), SHAPES.values(), ids=SHAPES.keys())
def test_what_trainers_read_is_read(
    kind: str, body: bytes, paths: dict[str, str], ignored: list[str]
) -> None:
    found = read(kind, body, **paths)
    assert found.keys == ["0", "1", "2"]
    assert found.texts == TEXTS
    assert found.domains == ["openai/gsm8k"] * 3
    assert found.ignored == ignored


CHATS: list[tuple[list[dict[str, Any]], str]] = [
    ([{"role": "user", "content": "hi"}], "hi"),
    (
        [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "hi"}],
        "system: Be brief.\n\nuser: hi",
    ),
    (
        [
            {
                "role": "user",
                "content": [
                    {"type": "image", "text": None},
                    {"type": "text", "text": "What is it?"},
                ],
            }
        ],
        "<image>What is it?",
    ),
]


@pytest.mark.parametrize(("chat", "text"), CHATS)
def test_a_chat_becomes_one_text_whatever_it_came_in(chat: list[dict[str, Any]], text: str) -> None:
    row = {"prompt": chat}
    assert read("lines", json.dumps(row).encode(), text="prompt").texts == [text]
    assert read("parquet", parquet({"prompt": [chat]}), text="prompt").texts == [text]


# ---- keys, missing values, types -----------------------------------------------------------------

INTEGERS = [
    pa.int8(),
    pa.uint8(),
    pa.int16(),
    pa.uint16(),
    pa.int32(),
    pa.uint32(),
    pa.int64(),
    pa.uint64(),
]


@pytest.mark.parametrize(
    "kind", [*INTEGERS, pa.float32(), pa.float64(), pa.decimal128(10, 2)], ids=str
)
def test_whole_numbers_of_any_type_are_keys(kind: pa.DataType) -> None:
    values = (
        [decimal.Decimal(value) for value in (0, 3, 100)]
        if pa.types.is_decimal(kind)
        else [0, 3, 100]
    )
    body = parquet({"key": pa.array(values, kind), "text": TEXTS})
    assert read("parquet", body).keys == ["0", "3", "100"]


def test_a_column_of_pandas_with_gaps_is_whole_numbers_and_gaps() -> None:
    frame = pd.DataFrame(
        {
            "text": TEXTS,
            "domain": [1, None, 3],
            "prior_successes": [1.0, None, 2.0],
            "prior_trials": [2.0, np.nan, 4.0],
        }
    )
    found = read("parquet", written(frame.to_parquet))
    assert found.domains == ["1", None, "3"]
    assert found.trials == [2.0, None, 4.0]
    rows = [
        {"text": "a", "prior_successes": float("nan"), "prior_trials": None},
        {"text": "b", "domain": None},
    ]
    assert read("lines", "\n".join(map(json.dumps, rows)).encode()).trials == [None, None]


VECTORS = [
    pa.array([[1, 2], [3, 4]], pa.list_(pa.float16())),
    pa.array([[1, 2], [3, 4]], pa.large_list(pa.float64())),
    pa.array([[1, 2], [3, 4]], pa.list_(pa.int8(), 2)),
    pa.array([[1, 2], [3, 4]], pa.list_view(pa.float32())),
    pa.array(["[1, 2]", "[3.0, 4.0]"]),
]


@pytest.mark.parametrize("vectors", VECTORS, ids=lambda vectors: str(vectors.type))
def test_vectors_of_any_list_of_numbers(vectors: pa.Array) -> None:
    file = io.BytesIO()
    table = pa.table({"emb": vectors, "key": ["a", "b"]})
    with pa.ipc.new_file(file, table.schema) as writer:
        writer.write_table(table)
    assert read("arrow", file.getvalue(), vector="emb").vectors == [[1.0, 2.0], [3.0, 4.0]]


DATE = datetime.datetime(2026, 1, 2, tzinfo=datetime.UTC)
UNFIT: dict[str, tuple[Any, str]] = {
    "timestamp": ([None, DATE], "2026"),
    "float": ([1.0, 2.5], "2.5"),
    "bool": ([None, True], "true"),
    "decimal": ([decimal.Decimal("1.0"), decimal.Decimal("1.5")], "1.5"),
    "list": ([None, ["x"]], "a list of 1"),
    "struct": ([None, {"x": 1}], "an object of 1"),
    "binary": ([None, b"abc"], "abc"),
}


@pytest.mark.parametrize(("values", "shown"), UNFIT.values(), ids=UNFIT.keys())
def test_other_types_are_refused_with_field_row_and_value(values: list[Any], shown: str) -> None:
    body = parquet({"id": pa.array(values), "text": TEXTS[:2]})
    name, row, detail = refusal("parquet", body, key="id")
    assert (name, row) == ("key", 1)
    assert shown in detail
    assert '"id"' in detail


def test_a_value_is_told_in_full_precision_and_at_bounded_length() -> None:
    body = b'{"text": "t", "key": 0.30000000000000004}'
    assert "0.30000000000000004" in refusal("lines", body)[2]
    body = json.dumps({"text": "t", "key": "k" * 100_000}).encode()
    assert len(refusal("lines", body)[2]) < 1000


# ---- the mapping ---------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["lines", "parquet", "csv"])
def test_a_file_without_text_says_what_it_has_and_how_to_map_it(kind: str) -> None:
    rows = [{"prompt": "hi", "extra_info": {"index": 3, "split": "train"}}]
    csv_text = io.StringIO()
    writer = csv.DictWriter(csv_text, ["prompt", "extra_info"])
    writer.writeheader()
    writer.writerows(rows)
    bodies = {
        "lines": json.dumps(rows[0]).encode(),
        "parquet": written(lambda f: pq.write_table(pa.Table.from_pylist(rows), f)),
        "csv": csv_text.getvalue().encode(),
    }
    name, _, detail = refusal(kind, bodies[kind])
    assert name == "text"
    assert "?text=" in detail
    assert "prompt" in detail
    assert kind == "csv" or "extra_info.index, extra_info.split" in detail
    name, _, detail = refusal(kind, bodies[kind], text="prompt", key="extra_info.idx")
    assert name == "key"
    assert "extra_info.idx" in detail
    assert "prompt" in detail


def test_a_column_whose_name_has_dots_comes_before_a_path() -> None:
    rows = {"a.b": ["flat"], "a": [{"b": "inner", "c.d": "dotted"}]}
    for path, text in (("a.b", "flat"), ("a.c.d", "dotted")):
        assert read("parquet", parquet(rows), text=path).texts == [text]
        record = {"a.b": "flat", "a": rows["a"][0]}
        assert read("lines", json.dumps(record).encode(), text=path).texts == [text]


def test_an_empty_path_leaves_a_column_out() -> None:
    body = parquet({"key": [b"binary"], "text": ["t"]})
    found = read("parquet", body, key="")
    assert found.keys == [None]
    assert found.ignored == ["key"]


def test_the_reader_process_reads_what_the_service_reads() -> None:
    """And says what it refuses in the same words."""
    for kind, body, paths, ignored in SHAPES.values():
        with tempfile.SpooledTemporaryFile() as file:
            file.write(body if kind == "parquet" else gzip.compress(body))
            file.seek(0)
            upload = Upload(file, Task(kind, ColumnMapping(paths), len(body), 10**9))  # type: ignore[arg-type]
            chunks = list(upload)
        assert [text for chunk in chunks for text in chunk.texts or ()] == TEXTS
        assert upload.ignored == ignored
    with tempfile.SpooledTemporaryFile() as file:
        file.write(parquet({"text": ["t", None]}))
        upload = Upload(file, Task("parquet", ColumnMapping(), 1000, 10**9))  # type: ignore[arg-type]
        with pytest.raises(Invalid) as caught:
            list(upload)
    assert [(fault.field, fault.row) for fault in caught.value.faults] == [("text", 1)]
