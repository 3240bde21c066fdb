"""Pools from files: columns right, rows counted over the whole file, every fault named."""

import gzip
import io
import json

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from promptgps_client.wire import MAX_KEY, MAX_TEXT
from promptgps_service.errors import Invalid
from promptgps_service.flow.prompt_columns import PromptChunk
from promptgps_service.pools import lines as line_readers
from promptgps_service.pools import raw, tables
from promptgps_service.pools.checks import BOUNDS, check_columns
from promptgps_service.pools.mapping import ColumnMapping
from promptgps_service.pools.raw import RawChunk, vectors_from_lists
from promptgps_service.pools.reading import checked


def in_chunks(read, file, rows=4096):
    """What a reader reads, checked; with chunks of so many rows."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(line_readers, "CHUNK_ROWS", rows)
        patch.setattr(raw, "CHUNK_ROWS", rows)
        patch.setattr(tables, "SMALL_BATCHES", (rows,))
        items = read(file, ColumnMapping(), BOUNDS)
        yield from checked(item for item in items if isinstance(item, RawChunk))


def read_json_lines(file, chunk_rows=4096):
    return in_chunks(line_readers.read_json_lines, file, chunk_rows)


def read_parquet(file, chunk_rows=4096):
    return in_chunks(tables.read_parquet, file, chunk_rows)


def lines(*records):
    return io.BytesIO(b"".join(json.dumps(record).encode() + b"\n" for record in records))


def parquet(table, **options):
    file = io.BytesIO()
    pq.write_table(pa.table(table) if isinstance(table, dict) else table, file, **options)
    file.seek(0)
    return file


def fault(read, *args, **options):
    with pytest.raises(Invalid) as caught:
        list(read(*args, **options) or ())
    (found,) = caught.value.faults
    return found.field, found.row


def outcome(read, file):
    """How many rows were read, or why not."""
    try:
        return sum(chunk.rows for chunk in read(file))
    except Invalid as error:
        return error


GOOD = {"key": "k", "text": "t", "domain": "d", "prior_successes": 1, "prior_trials": 2.5}


def test_a_file_comes_in_chunks_of_columns():
    file = lines(*({"key": str(i), "text": f"text {i}", "vector": [i, 0.5]} for i in range(10)))
    chunks = list(read_json_lines(file, chunk_rows=4))
    assert [(chunk.first_row, chunk.rows) for chunk in chunks] == [(0, 4), (4, 4), (8, 2)]
    assert chunks[2].keys == ["8", "9"]
    assert chunks[2].texts == ["text 8", "text 9"]
    assert chunks[2].vectors is not None
    np.testing.assert_array_equal(
        chunks[2].vectors, np.array([[8, 0.5], [9, 0.5]], dtype=np.float32)
    )
    assert chunks[0].domains is chunks[0].prior_trials is None
    assert not file.closed


def test_gzip_is_told_by_its_first_bytes_and_blank_lines_may_end_a_file():
    file = io.BytesIO(gzip.compress(lines(GOOD, GOOD).read() + b"\r\n  \n"))
    (chunk,) = read_json_lines(file)
    assert chunk.rows == 2
    assert list(read_json_lines(io.BytesIO())) == []


def test_null_is_absent():
    (chunk,) = read_json_lines(lines({**GOOD, "key": None, "domain": None}, {"text": "u"}))
    assert chunk.keys is None
    assert chunk.domains is None
    assert chunk.prior_trials == [2.5, None]


@pytest.mark.parametrize("read", [read_json_lines, read_parquet])
def test_long_rows_end_a_chunk_early(monkeypatch, read):
    monkeypatch.setattr(raw, "CHUNK_BYTES", 2 * (60 + raw.ROW_BYTES))
    rows = [{"text": "x" * 60}] * 5
    file = lines(*rows) if read is read_json_lines else parquet(pa.Table.from_pylist(rows))
    assert [chunk.first_row for chunk in read(file)] == [0, 2, 4]


BAD_RECORDS = [
    ({"key": 7.5}, "key"),
    ({"key": True}, "key"),
    ({"key": ["k"]}, "key"),
    ({"key": ""}, "key"),
    ({"key": "k" * (MAX_KEY + 1)}, "key"),
    ({"key": None}, "key"),
    ({"text": ""}, "text"),
    ({"text": ["t"]}, "text"),
    ({"text": "a\0b"}, "text"),
    ({"text": "t" * (MAX_TEXT + 1)}, "text"),
    ({"text": None}, "text"),
    ({"domain": True}, "domain"),
    ({"domain": ""}, "domain"),
    ({"vector": None}, "vector"),
    ({"vector": []}, "vector"),
    ({"vector": "12"}, "vector"),
    ({"vector": [1.0]}, "vector"),
    ({"vector": [1.0, True]}, "vector"),
    ({"vector": [1.0, None]}, "vector"),
    ({"vector": [1.0, "2"]}, "vector"),
    ({"vector": [1.0, 1e39]}, "vector"),
    ({"vector": [1.0, 10**400]}, "vector"),
    ({"prior_successes": 3}, "prior_successes"),
    ({"prior_successes": -1}, "prior_successes"),
    ({"prior_successes": None}, "prior_successes"),
    ({"prior_trials": None}, "prior_trials"),
    ({"prior_trials": True}, "prior_trials"),
    ({"prior_trials": "2"}, "prior_trials"),
    ({"prior_trials": 10**400}, "prior_trials"),
]


@pytest.mark.parametrize(("change", "field"), BAD_RECORDS)
@pytest.mark.parametrize("row", [0, 5])
def test_a_bad_row_is_named(change, field, row):
    good = {**GOOD, "vector": [0.5, 1.0]}
    records = [good] * row + [{**good, **change}, good]
    found = fault(read_json_lines, lines(*records), chunk_rows=3)
    settled_by_first = row == 0 and (None in change.values() or change.get("vector") == [1.0])
    assert found == (field, 1 if settled_by_first and not field.startswith("prior") else row)


@pytest.mark.parametrize(
    "line",
    [
        b"{",
        b"[1]",
        b"null",
        b'{"text": "t"} {"text": "u"}',
        b'{"text": "\xff"}',
        b'{"text": "\\ud800"}',
        b'{"text": "a\x01b"}',
        b"[" * 100_000,
        b'{"text": "t", "prior_trials": ' + b"9" * 10_000 + b"}",
    ],
)
def test_a_line_that_is_no_json_object_names_its_row(line):
    body = lines(*[GOOD] * 5).read() + line + b"\n"
    assert fault(read_json_lines, io.BytesIO(body), chunk_rows=2) == ("file", 5)
    assert fault(read_json_lines, io.BytesIO(gzip.compress(body)), chunk_rows=2) == ("file", 5)


def test_json_infinities_by_overflow_are_refused():
    assert fault(read_json_lines, io.BytesIO(b'{"text": "t", "vector": [Infinity]}')) == (
        "vector",
        0,
    )
    body = b'{"text": "t", "prior_successes": 1, "prior_trials": 1e999}'
    assert fault(read_json_lines, io.BytesIO(body)) == ("prior_trials", 0)
    assert fault(read_json_lines, io.BytesIO(b'{"vector": [1, -1e999]}')) == ("vector", 0)


def test_a_line_without_end_and_too_many_blank_ones(monkeypatch):
    body = lines(GOOD).read()
    monkeypatch.setattr(line_readers, "MAX_LINE", 200)
    assert fault(read_json_lines, io.BytesIO(body + b"x" * 10_000)) == ("file", 1)
    monkeypatch.setattr(line_readers, "MAX_BLANK", 3)
    assert fault(read_json_lines, io.BytesIO(body + b"\n" * 4 + body)) == ("file", 1)


@pytest.mark.parametrize("cut", [3, 12, 200, -4])
def test_a_truncated_gzip_is_refused(cut):
    body = gzip.compress(
        b"".join(json.dumps({"text": f"{i**9}"}).encode() + b"\n" for i in range(200))
    )
    field, row = fault(read_json_lines, io.BytesIO(body[:cut]))
    assert field == "file"
    assert row is not None
    assert row <= 200


def test_a_damaged_gzip_is_refused():
    body = bytearray(gzip.compress(lines(*[{"text": f"{i**9}"} for i in range(200)]).read()))
    for place in (30, 300, len(body) - 6):
        bad = bytearray(body)
        bad[place] ^= 0x55
        assert fault(read_json_lines, io.BytesIO(bytes(bad)))[1] is not None


def test_parquet_comes_in_chunks_of_columns():
    table = pa.table(
        {
            "key": [str(i) for i in range(10)],
            "vector": pa.array([[i, 1] for i in range(10)], pa.list_(pa.float64(), 2)),
            "domain": pa.array(["a", None] * 5).dictionary_encode(),
            "prior_successes": pa.array([1] * 10, pa.int32()),
            "prior_trials": pa.array([2.0] * 10, pa.float32()),
        }
    )
    chunks = list(read_parquet(parquet(table, row_group_size=5), chunk_rows=4))
    assert [chunk.first_row for chunk in chunks] == list(
        np.cumsum([0, *[c.rows for c in chunks]])[:-1]
    )
    assert [key for c in chunks for key in c.keys or ()] == [str(i) for i in range(10)]
    assert chunks[0].domains == ["a", None, "a", None]
    vectors = np.concatenate([c.vectors for c in chunks if c.vectors is not None])
    np.testing.assert_array_equal(vectors, [[i, 1] for i in range(10)])
    assert vectors.dtype == np.float32
    assert list(read_parquet(parquet(table.slice(0, 0)))) == []


@pytest.mark.parametrize(
    ("columns", "found"),
    [
        ({"text": [1]}, ("text", 0)),
        ({"text": [b"t"]}, ("text", 0)),
        ({"text": ["t"], "prior_trials": [True]}, ("prior_trials", 0)),
        ({"vector": [["1"]]}, ("vector", 0)),
        ({"vector": [[True]]}, ("vector", 0)),
        ({"key": ["k"]}, ("text", 0)),
        ({"text": ["t"] * 5 + [None]}, ("text", 5)),
        ({"text": ["t"] * 5 + ["\0"]}, ("text", 5)),
        ({"text": ["t"] * 6, "key": ["k"] * 5 + [""]}, ("key", 5)),
        ({"vector": [[1.0]] * 5 + [[1.0, 2.0]]}, ("vector", 5)),
        ({"vector": [[1.0]] * 4 + [[1.0, 2.0]] * 2}, ("vector", 4)),
        ({"vector": [[1.0, 2.0]] * 5 + [[1.0, None]]}, ("vector", 5)),
        ({"vector": [[1.0]] * 5 + [None]}, ("vector", 5)),
        ({"vector": [[1.0]] * 5 + [[float("nan")]]}, ("vector", 5)),
        ({"vector": pa.array([[]], pa.list_(pa.float64()))}, ("vector", 0)),
        (
            {"text": ["t"] * 2, "prior_successes": [1, 3], "prior_trials": [2, 2]},
            ("prior_successes", 1),
        ),
        (
            {"text": ["t"] * 2, "prior_successes": [1, float("nan")], "prior_trials": [2, 2]},
            ("prior_successes", 1),
        ),
        ({"text": ["t"] * 2, "prior_successes": [None, 1]}, ("prior_trials", 1)),
    ],
)
def test_a_bad_parquet_column_is_named(columns, found):
    assert fault(read_parquet, parquet(columns), chunk_rows=2) == found


def test_parquet_strings_that_are_not_utf8_name_their_row():
    raw = pa.array([b"fine", b"fine", b"\xff\xfe", b"fine"], pa.binary())
    text = pa.StringArray.from_buffers(4, raw.buffers()[1], raw.buffers()[2])
    assert fault(read_parquet, parquet(pa.table({"text": text})), chunk_rows=3) == ("text", 2)


@pytest.mark.parametrize("body", [b"", b"PAR1", b"no parquet at all", b"PAR1" * 100])
def test_what_is_not_parquet_is_refused(body):
    assert fault(read_parquet, io.BytesIO(body)) == ("file", 0)


def test_a_parquet_column_name_that_is_not_utf8_is_refused():
    # Without Arrow's own copy of the schema in the footer the damaged name is what the reader sees.
    body = parquet({"text": ["t"]}, store_schema=False).read()
    assert fault(read_parquet, io.BytesIO(body.replace(b"text", b"te\xfft"))) == ("file", 0)


def test_damaged_parquet_is_refused_with_its_row():
    body = parquet({"text": [f"{i**9}" for i in range(500)]}, row_group_size=100).read()
    for place in range(4, 2000, 97):
        bad = body[:place] + b"\xff" * 8 + body[place + 8 :]
        found = outcome(read_parquet, io.BytesIO(bad))
        if isinstance(found, Invalid):
            assert found.faults[0].row is not None
        else:
            assert found == 500  # the damage hit a character of a text


STRINGS = st.text(
    st.characters(exclude_categories=["Cs"], exclude_characters="\0"), min_size=1, max_size=20
)
PRIORS = st.tuples(st.integers(0, 5), st.floats(5, 100)) | st.just((None, None))
ROWS = st.lists(
    st.tuples(
        STRINGS, STRINGS, st.none() | STRINGS, PRIORS, st.tuples(*[st.floats(-9, 9, width=32)] * 3)
    ),
    min_size=1,
    max_size=12,
)


def joined(chunks):
    """Rows of chunks, as they went in."""
    rows = []
    for chunk in chunks:
        assert chunk.first_row == len(rows)
        nothing = [None] * chunk.rows
        priors = zip(chunk.prior_successes or nothing, chunk.prior_trials or nothing, strict=True)
        vectors = map(tuple, chunk.vectors.tolist())
        rows += zip(chunk.keys, chunk.texts, chunk.domains or nothing, priors, vectors, strict=True)
    return rows


@settings(deadline=None, max_examples=60)
@given(ROWS, st.integers(1, 5), st.booleans(), st.booleans())
def test_what_is_written_is_read(rows, chunk_rows, compress, fixed):
    columns = {
        "key": [row[0] for row in rows],
        "text": [row[1] for row in rows],
        "domain": [row[2] for row in rows],
        "prior_successes": [row[3][0] for row in rows],
        "prior_trials": [row[3][1] for row in rows],
        "vector": [list(row[4]) for row in rows],
    }
    records = [
        dict(zip(columns, values, strict=True)) for values in zip(*columns.values(), strict=True)
    ]
    body = lines(*records).read()
    file = io.BytesIO(gzip.compress(body) if compress else body)
    assert joined(read_json_lines(file, chunk_rows)) == rows
    vector = pa.array(
        columns["vector"], pa.list_(pa.float32(), 3) if fixed else pa.list_(pa.float32())
    )
    assert joined(read_parquet(parquet({**columns, "vector": vector}), chunk_rows)) == rows


@settings(deadline=None, max_examples=100)
@given(st.binary(max_size=200), st.booleans())
def test_any_bytes_are_read_or_refused(body, compress):
    for read, file in (
        (read_json_lines, io.BytesIO(gzip.compress(body) if compress else body)),
        (read_parquet, io.BytesIO(b"PAR1" + body + b"PAR1")),
    ):
        found = outcome(read, file)
        assert found.faults[0].field if isinstance(found, Invalid) else found >= 0


def test_columns_of_a_request_are_named_as_columns():
    def check(**columns):
        return fault(check_columns, PromptChunk(0, **columns))

    assert check() == ("texts", 0)
    assert check(texts=["a", "b"], domains=["d"]) == ("domains", None)
    assert check(texts=["a", ""]) == ("texts", 1)
    assert check(texts=["a"], keys=["\ud800"]) == ("keys", 0)
    assert check(texts=["a"], prior_successes=[float("nan")], prior_trials=[1.0]) == (
        "prior_successes",
        0,
    )
    assert check(vectors=np.array([[1.0], [np.inf]])) == ("vectors", 1)
    assert check(vectors=np.zeros((2, 0))) == ("vectors", 0)
    assert check(vectors=np.array([["x"]])) == ("vectors", 0)
    check_columns(
        PromptChunk(0, texts=["a"], keys=["k" * MAX_KEY], prior_successes=[0], prior_trials=[0])
    )
    assert fault(vectors_from_lists, [[1.0, 2.0], [1.0]]) == ("vectors", 1)
