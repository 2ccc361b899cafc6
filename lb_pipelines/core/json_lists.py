"""JSON text for millions of small objects, built column by column with Arrow.

The columns are assembled by C++ string kernels, so no Python object is made per entry; there is
one per board at the end.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from lb_pipelines.core.ranking import Int64

# Texts of a day come and go: what is freed is free again at once (36 MB less at full scale).
pa.set_memory_pool(pa.system_memory_pool())

_NEEDS_ESCAPE = r'[\x00-\x1f"\\]'


def quoted(texts: pa.Array) -> pa.Array:
    """Every text as a JSON string literal."""
    special = pc.match_substring_regex(texts, _NEEDS_ESCAPE)
    plain = pc.binary_join_element_wise('"', texts, '"', "")
    if not pc.any(special).as_py():
        return plain
    import json

    # Rare enough for a loop: ids with quotes, backslashes or control characters.
    return pa.array(
        [
            json.dumps(text, ensure_ascii=False) if odd else literal
            for text, odd, literal in zip(
                texts.to_pylist(), special.to_pylist(), plain.to_pylist(), strict=True
            )
        ],
        pa.string(),
    )


def numbers(
    values: np.ndarray[Any, Any], *, null_where: np.ndarray[Any, Any] | None = None
) -> pa.Array:
    """Whole numbers as JSON, `null` where the mask is true."""
    array = pa.array(values, mask=null_where).cast(pa.string())
    return array if null_where is None else pc.fill_null(array, "null")


def objects(members: Mapping[str, pa.Array]) -> pa.Array:
    """One JSON object per row; `members` gives each member's name and its JSON texts."""
    parts: list[Any] = []
    for name, texts in members.items():
        parts += [("," if parts else "{") + f'"{name}":', texts]
    return pc.binary_join_element_wise(*parts, "}", "")


def lists(items: pa.Array, offsets: Int64 | Sequence[int]) -> list[bytes]:
    """One JSON array per board: board i holds the items `offsets[i]:offsets[i + 1]`."""
    if len(offsets) < 2:
        return []
    grouped = pa.ListArray.from_arrays(pa.array(offsets, pa.int32()), items)
    joined = pc.binary_join_element_wise("[", pc.binary_join(grouped, ","), "]", "")
    return split(joined)


def split(texts: pa.Array) -> list[bytes]:
    """A string array as one bytes object per element, without decoding."""
    if not len(texts):
        return []
    _, offsets_buffer, data_buffer = texts.buffers()
    ends = np.frombuffer(offsets_buffer, dtype=np.int32)[
        texts.offset : texts.offset + len(texts) + 1
    ].tolist()
    data = data_buffer.to_pybytes() if data_buffer is not None else b""
    return [data[a:b] for a, b in zip(ends, ends[1:], strict=False)]
