from __future__ import annotations

import random
import re
from collections.abc import Callable

import pytest

from benchmarks.rl.tasks import (
    ALL_FAMILIES,
    FAMILIES,
    MAX_ANSWER_TOKENS,
    Family,
    Prompt,
    Tokenizer,
    draw_prompt,
    is_right,
)

A = ord("a")


def _word(text: str) -> str:
    found = re.findall(r"'([a-z]+)'", text)
    assert len(found) == 1
    return str(found[0])


def _numbers(text: str) -> list[int]:
    return [int(n) for n in re.findall(r"\d+", text)]


def _pairs(word: str) -> str:
    letters = list(word)
    for i in range(1, len(letters), 2):
        letters[i - 1], letters[i] = letters[i], letters[i - 1]
    return "".join(letters)


def _caesar(text: str) -> str:
    (k,) = _numbers(text)
    return "".join(chr((ord(c) - A + k) % 26 + A) for c in _word(text))


def _rotate(text: str) -> str:
    (k,) = _numbers(text)
    word = _word(text)
    return "".join(word[(i + k) % len(word)] for i in range(len(word)))


SOLVERS: dict[str, Callable[[str], object]] = {
    "copy": _word,
    "reverse": lambda t: "".join(reversed(_word(t))),
    "sort": lambda t: "".join(c * _word(t).count(c) for c in "abcdefghijklmnopqrstuvwxyz"),
    "caesar": _caesar,
    "double": lambda t: re.sub(r"(.)", r"\1\1", _word(t)),
    "every second": lambda t: "".join(c for i, c in enumerate(_word(t)) if i % 2 == 0),
    "swap": lambda t: _pairs(_word(t)),
    "rotate": _rotate,
    "add": lambda t: sum(_numbers(t)),
    "subtract": lambda t: _numbers(t)[0] - _numbers(t)[1],
    "sum": lambda t: sum(_numbers(t)),
    "multiply": lambda t: _numbers(t)[0] * _numbers(t)[1],
    "maximum": lambda t: sorted(_numbers(t))[-1],
}
"""Each family solved from the prompt's text alone, by other code than the tasks'."""


def _all_levels(family: Family, each: int = 40) -> list[Prompt]:
    rng = random.Random(7)
    return [family.draw(level, rng) for level in range(family.levels) for _ in range(each)]


def test_there_are_thirteen_families_of_five_to_eight_levels() -> None:
    assert sorted(SOLVERS) == sorted(ALL_FAMILIES)
    assert len(FAMILIES) == 13
    assert all(5 <= f.levels <= 8 and len(set(f.wordings)) == 3 for f in FAMILIES)


@pytest.mark.parametrize("family", FAMILIES, ids=lambda f: f.name)
def test_the_answer_is_the_right_one_and_only_it_is_accepted(family: Family) -> None:
    rng = random.Random(1)
    for prompt in _all_levels(family):
        right = str(SOLVERS[family.name](prompt.text))
        assert is_right(prompt, right)
        at = rng.randrange(len(right))
        other = "x" if right[at] != "x" else "y"
        for wrong in (
            "",
            right[:-1],
            right + "a",
            " " + right,
            right + " ",
            right[:at] + other + right[at + 1 :],
        ):
            assert not is_right(prompt, wrong)


@pytest.mark.parametrize("family", FAMILIES, ids=lambda f: f.name)
def test_answers_survive_the_tokens_and_fit_the_limit(family: Family) -> None:
    tokenizer = Tokenizer()
    for prompt in _all_levels(family):
        ids = tokenizer.answer_ids(prompt.answer)
        assert len(ids) <= MAX_ANSWER_TOKENS
        assert tokenizer.response(ids) == prompt.answer
        assert Tokenizer.END not in tokenizer.prompt_ids(prompt)


def test_a_response_without_its_end_is_no_response() -> None:
    tokenizer = Tokenizer()
    assert tokenizer.response(tokenizer.answer_ids("abc")[:-1]) is None


def test_different_texts_have_different_tokens() -> None:
    rng = random.Random(3)
    tokenizer = Tokenizer()
    texts = {
        p.text: tuple(tokenizer.prompt_ids(p)) for p in (draw_prompt(rng) for _ in range(3000))
    }
    assert len(set(texts.values())) == len(texts)


def test_a_prompt_text_has_one_answer() -> None:
    rng = random.Random(4)
    answers: dict[str, set[str]] = {}
    for _ in range(20_000):
        prompt = draw_prompt(rng, level_decay=0.3)
        answers.setdefault(prompt.text, set()).add(prompt.answer)
    assert all(len(a) == 1 for a in answers.values())
