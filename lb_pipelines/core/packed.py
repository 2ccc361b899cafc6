"""Whole numbers as bytes: each array in the narrowest width that holds all of its values.

Format: one byte with the width (1, 2, 4 or 8), then the values, signed and little-endian. An
array of PostgreSQL costs 4 bytes and a function call more for every element.
"""

from __future__ import annotations

from typing import Any

import numpy as np

_WIDTHS = (1, 2, 4, 8)


def narrowest(values: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    """A copy of these whole numbers in the narrowest type that holds all of them."""
    low, high = (int(values.min()), int(values.max())) if len(values) else (0, 0)
    width = next(w for w in _WIDTHS if -(1 << 8 * w - 1) <= low and high < 1 << 8 * w - 1)
    return values.astype(f"<i{width}")


def pack(values: np.ndarray[Any, Any]) -> bytes:
    """Integers of any width, packed."""
    narrow = narrowest(values)
    return bytes([narrow.itemsize]) + narrow.tobytes()


def unpack(data: bytes) -> np.ndarray[Any, Any]:
    """The values as they were packed, in their narrow type; raises ValueError for anything else."""
    width = data[0] if data else 0
    if width not in _WIDTHS or (len(data) - 1) % width:
        raise ValueError("no packed whole numbers")
    return np.frombuffer(data, dtype=f"<i{width}", offset=1)
