"""WordLlama: offline, unit rows, each of its own text only."""

import socket
import subprocess
import sys
import threading
from pathlib import Path

import numpy as np
import pytest
import wordllama as library
from hypothesis import given, settings
from hypothesis import strategies as st
from promptgps_service.embedding import wordllama
from promptgps_service.embedding.wordllama import MAX_CHARACTERS, WordLlamaEmbedder, embed
from promptgps_service.errors import Invalid

TEXTS = ["What is 2 + 2?", "", "a", "Let $x^2 = 4$. Find $x$.\n" * 60, "漢字 😀 é", "  "]
SOME_TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=60)


def test_rows_have_length_one_and_an_empty_text_gives_zeros():
    rows = embed(TEXTS)
    assert rows.shape == (len(TEXTS), WordLlamaEmbedder.dimension)
    assert rows.dtype == np.float32
    lengths = np.linalg.norm(rows, axis=1)
    assert lengths[1] == 0.0
    np.testing.assert_allclose(np.delete(lengths, 1), 1.0, atol=1e-6)
    assert embed([]).shape == (0, 256)


@settings(deadline=None, max_examples=30)
@given(st.lists(SOME_TEXT, min_size=1, max_size=8))
def test_a_row_depends_on_its_own_text_only(texts):
    together = embed([*texts, "a much longer neighbour " * 200])
    alone = np.concatenate([embed([text]) for text in texts])
    np.testing.assert_allclose(together[:-1], alone, atol=1e-6)
    assert np.isfinite(together).all()


def test_rows_keep_their_order_across_batches(monkeypatch):
    texts = [f"number {i} " * (i % 7) for i in range(50)]
    whole = embed(texts)
    monkeypatch.setattr(wordllama, "BATCH_TEXTS", 3)
    monkeypatch.setattr(wordllama, "BATCH_CHARACTERS", 40)
    np.testing.assert_array_equal(embed(texts), whole)


def test_it_agrees_with_the_library():
    texts = [text for text in TEXTS if text.strip()]
    model = library.WordLlama.load(cache_dir=Path(library.__file__).parent, disable_download=True)
    np.testing.assert_allclose(embed(texts), model.embed(texts, norm=True), atol=1e-6)


def test_meaning_is_in_the_angles():
    rows = embed(
        [
            "solve the quadratic equation",
            "find the roots of a polynomial",
            "sort the letters of a word",
        ]
    )
    near = rows[0] @ rows[1]
    far = rows[0] @ rows[2]
    assert near > far


def test_a_long_text_is_cut():
    head = "abc " * (MAX_CHARACTERS // 4)
    np.testing.assert_array_equal(*embed([head, head + "and much more " * 80_000]))


def test_a_lone_surrogate_names_its_row():
    with pytest.raises(Invalid) as caught:
        embed(["fine", "also", "bad \ud800"])
    assert (caught.value.faults[0].field, caught.value.faults[0].row) == ("texts", 2)


def test_it_loads_with_the_network_refused(monkeypatch):
    def refuse(*_):
        raise AssertionError("the network was asked")

    expected = embed(TEXTS)
    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    monkeypatch.setattr(wordllama, "_parts", None)
    np.testing.assert_array_equal(embed(TEXTS), expected)


def test_it_loads_once_for_many_threads(monkeypatch):
    reads = []
    read = wordllama._read
    monkeypatch.setattr(wordllama, "_parts", None)
    monkeypatch.setattr(wordllama, "_read", lambda: reads.append(1) or read())
    threads = [threading.Thread(target=embed, args=(TEXTS,)) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert reads == [1]


def test_another_process_gives_the_same_and_logging_is_left_alone():
    code = (
        "import logging, sys; from promptgps_service.embedding.wordllama import embed;"
        "row = embed(['What is 2 + 2?']); root = logging.getLogger();"
        "assert (root.handlers, root.level) == ([], logging.WARNING), root.handlers;"
        "sys.stdout.buffer.write(row.tobytes())"
    )
    out = subprocess.run(
        [sys.executable, "-W", "error", "-c", code], capture_output=True, check=True
    ).stdout
    assert out == embed(TEXTS[:1]).tobytes()
