"""Surface features: 19 counts of a text that tell about its difficulty before anyone has tried it.

On pools of maths problems they rank unseen prompts better than the embedding does, and on
procedural tasks ("Put the letters of 'qzkfa' in alphabetical order.") they carry the size of the
instance, which an average of token vectors hides. No outcome goes in: a feature is a function of
its own text alone.

Chosen among 67 candidates by cross-validated ridge on four sets at once (a real RL run, MATH and
AIME levels, procedural tasks between and within kinds), so that no single set decides. What many a
candidate had to say (digits, LaTeX commands, fractions, bracket depth, ...) is in these already.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from math import log1p

import numpy as np

MAX_CHARACTERS = 8192
"""Characters of a text that are counted; only ``characters`` looks at the whole length."""

LONGEST_QUOTED = 64  # a longer quotation is a text, not an instance
LARGEST = 1e18  # numbers are counted up to here: beyond it lie digit strings, not sizes

SURFACE_NAMES = (
    "characters",
    "words",
    "distinct_words",
    "distinct_characters",
    "longest_line",
    "last_sentence",  # the question, where a story comes first
    "quoted",  # the longest quoted string: the instance of a procedural task
    "numbers",
    "mean_number",
    "largest_number",
    "variables",
    "operators",
    "functions",
    "roots",
    "dollars",
    "capitals",
    "commas",  # lists
    "semicolons",  # code, of figures too
    "questions",  # asks for a value rather than a proof or a parametrised answer
)

_NUMBER = re.compile(r"[0-9]+(?:\.[0-9]+)?")
_QUOTED = re.compile(r"\"([^\"\n]*)\"|`([^`\n]*)`|(?<!\w)'([^'\n]*)'(?!\w)")
_VARIABLE = re.compile(r"(?<![A-Za-z\\])[A-Za-z](?![A-Za-z])")
_OPERATOR = re.compile(r"[-+*/^<>×÷·≤≥]")
_FUNCTION = re.compile(r"\b(?:sin|cos|tan|log|ln)\b")
_CAPITAL = re.compile(r"[A-Z]")
_SENTENCE_END = re.compile(r"[.?!]\s")


def surface_features(texts: Sequence[str]) -> np.ndarray:
    """Surface features, float32[M, 19], in the order of ``SURFACE_NAMES``; finite for every text.

    Args:
        texts: M strings.
    """
    out = np.empty((len(texts), len(SURFACE_NAMES)), dtype=np.float32)
    for row, text in enumerate(texts):
        out[row] = _features(text)
    return out


def _features(text: str) -> tuple[float, ...]:
    """Features of one text: counts as log(1 + count), one share and one plain length.

    Counts are logarithms, for their tails are heavy.

    An instance of five letters is as much harder than one of four as one of eight is than one of
    seven.
    """
    head = text[:MAX_CHARACTERS]
    words = head.split()
    numbers = [log1p(min(float(number), LARGEST)) for number in _NUMBER.findall(head)]
    return (
        log1p(len(text)),
        log1p(len(words)),
        log1p(len(set(words))),
        log1p(len(set(head))),
        log1p(max(map(len, head.splitlines()), default=0)),
        log1p(len(_SENTENCE_END.split(head.strip())[-1])),
        min(
            max((len(a or b or c) for a, b, c in _QUOTED.findall(head)), default=0), LONGEST_QUOTED
        ),
        log1p(len(numbers)),
        sum(numbers) / max(len(numbers), 1),
        max(numbers, default=0.0),
        log1p(len(_VARIABLE.findall(head))),
        log1p(len(_OPERATOR.findall(head))),
        log1p(len(_FUNCTION.findall(head))),
        log1p(head.count("sqrt") + head.count("√")),
        log1p(head.count("$")),
        len(_CAPITAL.findall(head)) / max(len(head), 1),
        log1p(head.count(",")),
        log1p(head.count(";")),
        log1p(head.count("?")),
    )
