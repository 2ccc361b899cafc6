"""`lb archive export`, `check` and `import`: the archive as files that outlive this database."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from lb_pipelines.cli.access import database_opened, find, today_of
from lb_pipelines.cli.options import (
    AcademicYears,
    By,
    FirstDay,
    Granularities,
    InstitutionId,
    LastDay,
    References,
    Terms,
    Types,
    actor,
    selection,
)
from lb_pipelines.cli.telling import AsJson, errors_told, examples, plain, say, size
from lb_pipelines.retention.exporting import export_archive, verify_export
from lb_pipelines.retention.importing import import_export

Directory = Annotated[Path, typer.Argument(help="The directory of an export.")]

EXPORT_EXAMPLES = examples(
    "lb archive export /backup/inst_101-2023 --institution inst_101 --year 2023-2024",
    "lb archive export /backup/class_7 --institution inst_101 --type CLASS --reference class_7",
)
CHECK_EXAMPLES = examples("lb archive check /backup/inst_101-2023")
IMPORT_EXAMPLES = examples("lb archive import /backup/inst_101-2023")


def export(
    directory: Annotated[Path, typer.Argument(help="A new directory.")],
    institution_id: InstitutionId,
    types: Types = None,
    granularities: Granularities = None,
    references: References = None,
    first_day: FirstDay = None,
    last_day: LastDay = None,
    academic_years: AcademicYears = None,
    terms: Terms = None,
    by: By = None,
    as_json: AsJson = False,
) -> None:
    """Write archived snapshots as Parquet with a manifest of SHA-256; the archive keeps them.

    The ledger remembers the directory, so that an erasure of a student reaches these files too.
    """
    who = actor(by)
    with errors_told(as_json), database_opened() as database:
        chosen = selection(
            types, granularities, references, first_day, last_day, academic_years, terms
        )
        done = export_archive(
            database, find(database, institution_id), chosen, directory.absolute(), who
        )
    say(
        plain(done),
        as_json,
        f"Export {done.export}: {done.rows:,} snapshots in {done.files:,} files "
        f"({size(done.bytes)}) in {done.directory}",
        f"SHA-256 of its manifest: {done.manifest_sha256}",
    )


def check(directory: Directory, as_json: AsJson = False) -> None:
    """Read an export from end to end and hold it to its manifest; it needs no database."""
    with errors_told(as_json):
        found = verify_export(directory.absolute())
    say(
        plain(found),
        as_json,
        f"Whole: {found.rows:,} snapshots of institution {found.institution_id} in "
        f"{found.files:,} files ({size(found.bytes)}), digest {found.digest}",
        f"SHA-256 of its manifest: {found.manifest_sha256}",
    )


def import_archive(directory: Directory, by: By = None, as_json: AsJson = False) -> None:
    """Bring the snapshots of an export into the archive of the institution that it names.

    All or none; what is there already, equal, stays as it is, so that it can be run again.
    """
    who = actor(by)
    with errors_told(as_json), database_opened() as database:
        found = verify_export(directory.absolute())
        today = today_of(find(database, found.institution_id))
        done = import_export(database, directory.absolute(), who, today)
    say(
        plain(done),
        as_json,
        f"{done.rows:,} snapshots ({size(done.bytes)}) came into the archive of institution "
        f"{done.institution_id}; {done.there:,} were there already.",
    )
