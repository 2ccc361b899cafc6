"""Which texts can be ids, so that no two ids look alike that are not the same.

Of campuses, subjects, terms, classes, students and events; an institution's id names partitions and
has stricter rules (`core.words`). Letters of different scripts that look alike are not judged.
"""

from __future__ import annotations

import re
import unicodedata

LONGEST_ID = 200
"""Characters of an id: far below what an index can hold (2,704 bytes)."""

_PLAIN = re.compile(r"[!-~]+( [!-~]+)*")
_UNSEEN = re.compile(
    # What Unicode has a program ignore where it cannot draw it (Default_Ignorable_Code_Point),
    # as far as `str.isprintable` does not refuse it: joiners, fillers, variation selectors.
    "[\u034f\u115f\u1160\u17b4\u17b5\u180b-\u180f\u3164\ufe00-\ufe0f\uffa0\U000e0100-\U000e01ef"
    # Braille without a dot: a blank.
    "\u2800]"
)


def describe_invalid_id(id: str) -> str | None:
    """Why a text can be no id, and what to do about it; None where it can.

    An id has 1 to 200 printable characters, among them no blank but the plain space, and that not
    at the ends; no character that cannot be seen; and its accents composed (Unicode's form NFC).
    """
    if _PLAIN.fullmatch(id) and len(id) <= LONGEST_ID:
        return None
    if not 1 <= len(id) <= LONGEST_ID:
        return f"an id has 1 to {LONGEST_ID} printable characters"
    for character in id:
        if not character.isprintable() or _UNSEEN.match(character):
            name = unicodedata.name(character, "a character that cannot be printed")
            return (
                f"holds U+{ord(character):04X} ({name}): an id has 1 to {LONGEST_ID} printable"
                " characters, take out what cannot be seen"
            )
    if id != id.strip(" "):
        return "begins or ends with a space: take it out"
    if not unicodedata.is_normalized("NFC", id):
        return "holds letters in pieces, which look like whole ones: write it in Unicode's form NFC"
    return None
