"""How dimensions and point events come in. COPY underneath, whatever the source.

The sources:

- `oulad.import_directory`: the Open University Learning Analytics Dataset.
- `plain.import_directory`: the project's own plain format (docs/import-format.md).
- `district.generate`: an invented district of any size.

What they share: `loading` (ids to keys, merge, COPY), `arrow_copy` (Arrow to COPY's binary
format), `files` (CSV or Parquet), `rfc4180` (how a CSV is written), `report` (what was read,
written and refused), `progress`.
A source reads and checks; only `loading` writes.
"""
