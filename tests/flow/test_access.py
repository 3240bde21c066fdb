"""What a limited key reaches: told by names alone, never more than its patterns say."""

from __future__ import annotations

from contextlib import suppress
from fnmatch import fnmatchcase

import pytest
from hypothesis import given
from hypothesis import strategies as st
from promptgps_service.errors import Forbidden
from promptgps_service.flow.access import Access

NAMES = st.from_regex(r"[ab.-]{1,6}", fullmatch=True)
PATTERNS = st.lists(st.from_regex(r"[ab.*?-]{1,6}", fullmatch=True), min_size=1, max_size=3)


def allowed(check, name: str) -> bool:
    with suppress(Forbidden):
        check(name)
        return True
    return False


@given(NAMES, PATTERNS)
def test_a_key_owns_what_one_of_its_patterns_matches(name: str, patterns: list[str]) -> None:
    access = Access("key", tuple(patterns))
    owns = any(fnmatchcase(name, pattern) for pattern in patterns)
    assert (
        access.owns(name)
        == allowed(access.may_read, name)
        == allowed(access.may_change, name)
        == owns
    )


@given(NAMES, PATTERNS)
def test_a_key_for_reading_changes_nothing_and_reads_the_same(
    name: str, patterns: list[str]
) -> None:
    access = Access("key", tuple(patterns))
    reader = Access("key", tuple(patterns), read_only=True)
    assert allowed(reader.may_read, name) == allowed(access.may_read, name)
    assert not allowed(reader.may_change, name)


@given(NAMES)
def test_a_key_without_patterns_owns_everything(name: str) -> None:
    assert allowed(Access("key").may_change, name)
    assert allowed(Access("key", read_only=True).may_read, name)


@pytest.mark.parametrize(
    ("pattern", "name", "owned"),
    [
        ("exp-1", "exp-1", True),
        ("exp-1", "exp-10", False),
        ("exp-*", "exp-", True),
        ("exp-*", "my-exp-1", False),
        ("exp-?", "exp-10", False),
        ("exp-[12]", "exp-2", True),
        ("EXP-*", "exp-1", False),
        ("exp.1", "expx1", False),
    ],
)
def test_patterns_match_whole_names(pattern: str, name: str, owned: bool) -> None:
    assert Access("key", (pattern,)).owns(name) is owned
