"""Procedural text tasks with exactly one right answer each.

Thirteen families, five to eight levels of growing length, three wordings. A prompt is plain English
with its data in it ("Put the letters of 'qzkfa' in alphabetical order ."), which is all that a
difficulty model sees.

Tokens are characters, except that a word of a wording is one token: the data are spelled, the
instruction is not. Data never reads as an instruction word, because letters stand in quotes and
numbers have no letters.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass
from string import ascii_lowercase
from typing import NamedTuple

MAX_ANSWER_TOKENS = 13
"""The longest answer including its end token; sampling stops there."""


class Prompt(NamedTuple):
    """One task: what is asked, and the only right answer."""

    text: str
    answer: str
    family: str
    level: int


class Instance(NamedTuple):
    """The data of one task: `x` (and `k`, where the wording names a number) and the answer."""

    x: str
    k: str
    answer: str


@dataclass(frozen=True)
class Family:
    """One kind of task; `make(level, rng)` draws its data, level 0 being the easiest."""

    name: str
    levels: int
    make: Callable[[int, random.Random], Instance]
    wordings: tuple[str, str, str]

    def draw(self, level: int, rng: random.Random) -> Prompt:
        """One prompt of that level in one of the three wordings."""
        x, k, answer = self.make(level, rng)
        text = rng.choice(self.wordings).format(x=x, k=k)
        return Prompt(text, answer, self.name, level)


def _letters(length: int, rng: random.Random) -> str:
    return "".join(rng.choice(ascii_lowercase) for _ in range(length))


def _number(digits: int, rng: random.Random) -> int:
    return rng.randrange(10 ** (digits - 1) if digits > 1 else 0, 10**digits)


def shift(word: str, by: int) -> str:
    """The Caesar cipher: every letter `by` places on, z being followed by a."""
    return "".join(ascii_lowercase[(ascii_lowercase.index(c) + by) % 26] for c in word)


def swap_pairs(word: str) -> str:
    """Neighbours exchanged, pair by pair; an odd last letter stays."""
    return "".join(word[i : i + 2][::-1] for i in range(0, len(word), 2))


def _on_letters(
    answer: Callable[[str], str], shortest: int
) -> Callable[[int, random.Random], Instance]:
    def make(level: int, rng: random.Random) -> Instance:
        word = _letters(shortest + level, rng)
        return Instance(word, "", answer(word))

    return make


def _on_letters_by(
    answer: Callable[[str, int], str], most: int
) -> Callable[[int, random.Random], Instance]:
    def make(level: int, rng: random.Random) -> Instance:
        word = _letters(2 + level, rng)
        k = rng.randint(1, min(most, 1 + level))
        return Instance(word, str(k), answer(word, k))

    return make


def _on_list(
    answer: Callable[[list[int]], int], digits: int
) -> Callable[[int, random.Random], Instance]:
    def make(level: int, rng: random.Random) -> Instance:
        numbers = [_number(digits, rng) for _ in range(2 + level)]
        return Instance(",".join(map(str, numbers)), "", str(answer(numbers)))

    return make


def _add(level: int, rng: random.Random) -> Instance:
    a = _number(1 + (level + 1) // 2, rng)
    b = _number(1 + level // 2, rng)
    return Instance(f"{a}+{b}", "", str(a + b))


def _subtract(level: int, rng: random.Random) -> Instance:
    a = _number(1 + (level + 1) // 2, rng)
    b = _number(1 + level // 2, rng)
    a, b = max(a, b), min(a, b)
    return Instance(f"{a}-{b}", "", str(a - b))


def _multiply(level: int, rng: random.Random) -> Instance:
    a = _number(1 + (level + 1) // 2, rng)
    b = _number(1 + level // 2, rng)
    return Instance(f"{a}*{b}", "", str(a * b))


FAMILIES: tuple[Family, ...] = (
    Family(
        "copy",
        8,
        _on_letters(lambda w: w, 3),
        ("Write '{x}' again .", "Repeat the word '{x}' exactly .", "Copy '{x}' letter by letter ."),
    ),
    Family(
        "reverse",
        7,
        _on_letters(lambda w: w[::-1], 2),
        (
            "Write '{x}' backwards .",
            "Reverse the word '{x}' .",
            "Spell '{x}' from the end to the start .",
        ),
    ),
    Family(
        "sort",
        7,
        _on_letters(lambda w: "".join(sorted(w)), 2),
        (
            "Put the letters of '{x}' in alphabetical order .",
            "Sort '{x}' from a to z .",
            "Arrange the letters of '{x}' alphabetically .",
        ),
    ),
    Family(
        "caesar",
        6,
        _on_letters_by(shift, 3),
        (
            "Move every letter of '{x}' {k} places on in the alphabet .",
            "Caesar cipher of '{x}' with shift {k} .",
            "Replace each letter of '{x}' by the one {k} after it .",
        ),
    ),
    Family(
        "double",
        5,
        _on_letters(lambda w: "".join(c + c for c in w), 2),
        (
            "Write every letter of '{x}' twice .",
            "Double each letter in '{x}' .",
            "Stutter '{x}' letter by letter .",
        ),
    ),
    Family(
        "every second",
        8,
        _on_letters(lambda w: w[::2], 3),
        (
            "Take every second letter of '{x}' .",
            "Keep the first , third , fifth ... letter of '{x}' .",
            "Skip each other letter in '{x}' .",
        ),
    ),
    Family(
        "swap",
        7,
        _on_letters(swap_pairs, 2),
        (
            "Swap neighbouring letters in '{x}' .",
            "Exchange the letters of '{x}' pair by pair .",
            "Switch first and second , third and fourth ... in '{x}' .",
        ),
    ),
    Family(
        "rotate",
        6,
        _on_letters_by(lambda w, k: w[k:] + w[:k], 4),
        (
            "Rotate '{x}' left by {k} .",
            "Move the first {k} letters of '{x}' to the end .",
            "Turn '{x}' by {k} to the left .",
        ),
    ),
    Family(
        "add",
        8,
        _add,
        ("What is {x} ?", "Compute the sum {x} .", "Add the two numbers {x} and give the result ."),
    ),
    Family(
        "subtract",
        7,
        _subtract,
        (
            "What remains of {x} ?",
            "Compute the difference {x} .",
            "Subtract the second from the first : {x} .",
        ),
    ),
    Family(
        "sum",
        6,
        _on_list(sum, 1),
        ("Sum the list {x} .", "What is the total of {x} ?", "Add up all of {x} ."),
    ),
    Family(
        "multiply",
        5,
        _multiply,
        ("Compute the product {x} .", "Multiply {x} .", "What is the result of {x} ?"),
    ),
    Family(
        "maximum",
        6,
        _on_list(max, 2),
        (
            "What is the largest of {x} ?",
            "Find the maximum in {x} .",
            "Give the biggest number among {x} .",
        ),
    ),
)


ALL_FAMILIES = tuple(family.name for family in FAMILIES)
_BY_NAME = {family.name: family for family in FAMILIES}


def draw_prompt(
    rng: random.Random, families: tuple[str, ...] = ALL_FAMILIES, level_decay: float = 1.0
) -> Prompt:
    """One prompt, families equally likely, level l in proportion to `level_decay` ** l."""
    family = _BY_NAME[rng.choice(families)]
    weights = [level_decay**level for level in range(family.levels)]
    return family.draw(rng.choices(range(family.levels), weights)[0], rng)


def is_right(prompt: Prompt, response: str) -> bool:
    """The verifier: the answer and nothing else."""
    return response == prompt.answer


class Tokenizer:
    """Instruction words are single tokens, everything else is spelled in characters.

    Token 0 ends an answer.
    """

    END = 0

    def __init__(self) -> None:
        words = {
            w
            for f in FAMILIES
            for t in f.wordings
            for w in t.split()
            if "{" not in w and len(w) > 1
        }
        self._pieces = ["", *ascii_lowercase, *"0123456789'+-*,.?:", *sorted(words)]
        self._ids = {piece: i for i, piece in enumerate(self._pieces)}

    def __len__(self) -> int:
        return len(self._pieces)

    def prompt_ids(self, prompt: Prompt) -> list[int]:
        """The prompt's tokens, in order."""
        ids: list[int] = []
        for word in prompt.text.split():
            ids.extend([self._ids[word]] if word in self._ids else [self._ids[c] for c in word])
        return ids

    def answer_ids(self, answer: str) -> list[int]:
        """The tokens that a policy must emit to be right: the answer's characters and the end."""
        return [*(self._ids[c] for c in answer), self.END]

    def response(self, ids: list[int]) -> str | None:
        """The text of emitted tokens up to the end token; None where the policy did not end."""
        if self.END not in ids:
            return None
        return "".join(self._pieces[i] for i in ids[: ids.index(self.END)])
