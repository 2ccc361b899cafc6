"""Ids that look alike are the same id."""

from __future__ import annotations

import sys
import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lb_pipelines.core.ids import LONGEST_ID, describe_invalid_id

IGNORED = [*"\u034f\u115f\u1160\u17b4\u17b5\u180b\u180c\u180d\u180f\u2800\u3164\ufe00\ufe0f\uffa0"]


@pytest.mark.parametrize(
    "id",
    [
        "s1", "A", "a b", "a  b", "NA", "-", "x" * LONGEST_ID, "é", "Jürgen Groß", "学生 1", "🎓",
        "9f2c-…", 'quo"ted', "a,b", "ﬁ", "ν", "ᄀ",
    ],
)  # fmt: skip
def test_texts_that_can_be_ids(id: str) -> None:
    assert describe_invalid_id(id) is None


@pytest.mark.parametrize(
    ("id", "reason"),
    [
        ("", "1 to 200 printable"),
        ("x" * (LONGEST_ID + 1), "1 to 200 printable"),
        ("é" * (LONGEST_ID + 1), "1 to 200 printable"),
        (" s1", "begins or ends with a space"),
        ("s1 ", "begins or ends with a space"),
        ("ä ", "begins or ends with a space"),
        (" ", "begins or ends with a space"),
        ("s\u200b1", r"U+200B (ZERO WIDTH SPACE)"),
        ("s1\u202e", "U+202E (RIGHT-TO-LEFT OVERRIDE)"),
        ("\u2066s1\u2069", "U+2066"),
        ("\ufeffs1", "U+FEFF (ZERO WIDTH NO-BREAK SPACE)"),
        ("s\u00a01", "U+00A0 (NO-BREAK SPACE)"),
        ("s1\u3000", "U+3000"),
        ("s\u00ad1", "U+00AD (SOFT HYPHEN)"),
        ("a\u2028b", "U+2028"),
        ("a\u2029b", "U+2029"),
        ("❤\ufe0f", "U+FE0F"),
        ("a\U000e0100", "U+E0100"),
        ("a\U000e0041", "U+E0041"),
        ("a\tb", "U+0009"),
        ("a\0", "U+0000"),
        ("a\x85", "U+0085"),
        ("a\ud800", "U+D800"),
        ("a\ue000", "U+E000"),
        ("e\u0301", "form NFC"),
        ("\u212b", "form NFC"),
    ],
)
def test_texts_that_cannot(id: str, reason: str) -> None:
    found = describe_invalid_id(id)
    assert found is not None
    assert reason in found
    # A remedy: what an id may have, or what to do.
    assert any(word in found for word in ("an id has", "take it out", "write it in"))


def test_every_character_that_cannot_be_seen_is_refused() -> None:
    refused = {"Cc", "Cf", "Cs", "Co", "Cn", "Zs", "Zl", "Zp"}
    for code in range(sys.maxunicode + 1):
        character = chr(code)
        if character != " " and (
            unicodedata.category(character) in refused or character in IGNORED
        ):
            assert describe_invalid_id(f"a{character}b") is not None, hex(code)


@given(st.text())
def test_an_id_stays_itself_in_every_way_of_cleaning_it(id: str) -> None:
    if describe_invalid_id(id) is None:
        assert unicodedata.normalize("NFC", id) == id == id.strip()
        assert id.isprintable()
        assert id.encode().decode("utf-8-sig") == id
