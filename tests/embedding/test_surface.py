"""Surface features: finite, of their own text only, and about what their names say."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from promptgps_service.embedding import SURFACE_NAMES, surface_features


def feature(name, text):
    return float(surface_features([text])[0, SURFACE_NAMES.index(name)])


def test_there_are_nineteen():
    assert len(set(SURFACE_NAMES)) == 19
    assert surface_features([]).shape == (0, 19)
    assert surface_features([""]).tolist() == [[0.0] * 19]


@given(st.lists(st.text(max_size=80), max_size=6))
def test_finite_and_of_their_own_text_only(texts):
    rows = surface_features(texts)
    assert rows.dtype == np.float32
    assert np.isfinite(rows).all()
    for text, row in zip(texts, rows, strict=True):
        np.testing.assert_array_equal(surface_features([text])[0], row)


@pytest.mark.parametrize(
    ("name", "text", "count"),
    [
        ("characters", "abcd", 4),
        ("words", "one two\nthree", 3),
        ("distinct_words", "to be or not to be", 4),
        ("distinct_characters", "abba", 2),
        ("longest_line", "ab\nabcd\na", 4),
        ("last_sentence", "A story. It goes on! How many?", 9),
        ("numbers", "3 of 12.5, then 3", 3),
        ("largest_number", "3 of 12.5", 12.5),
        ("variables", r"$\sin x + y$", 2),
        ("operators", "1 + 2 - 3 × 4", 3),
        ("functions", r"$\sin x + \log y$, then catalog", 2),
        ("roots", r"$\sqrt{2}$ or √3", 2),
        ("dollars", "$x$", 2),
        ("commas", "1, 2, 3", 2),
        ("semicolons", "a; b;", 2),
        ("questions", "why? how?", 2),
    ],
)
def test_a_count_is_log_one_plus(name, text, count):
    assert feature(name, text) == pytest.approx(np.log1p(count), rel=1e-6)


@pytest.mark.parametrize(
    ("text", "length"),
    [
        ("Put the letters of 'qzkfa' in order.", 5),
        ("Anna's and Bob's \"seven\"", 5),
        ("run `f(x)`", 4),
        ("none", 0),
    ],
)
def test_the_longest_quotation_counts_as_it_is(text, length):
    assert feature("quoted", text) == length
    assert feature("quoted", text + " '" + "x" * 1000 + "'") == 64


def test_shares_and_means():
    assert feature("capitals", "ABcd") == 0.5
    assert feature("mean_number", "1 and 3") == pytest.approx((np.log1p(1) + np.log1p(3)) / 2)


def test_a_huge_number_and_a_huge_text_stay_finite():
    rows = surface_features(["9" * 5000, "x" * 1_000_000, "(" * 100_000, "'" * 100_000])
    assert np.isfinite(rows).all()
    assert rows[1, 0] == pytest.approx(np.log1p(1_000_000))
