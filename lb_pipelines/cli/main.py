"""The application `lb`: its verbs in the order of its help, and the schema that all of them need.

A new family of verbs is a module of its own, added here.
"""

from __future__ import annotations

import typer

from lb_pipelines.cli import (
    archive,
    boards,
    erasures,
    exports,
    extracts,
    holds,
    imports,
    insight,
    operations,
    purges,
    returns,
    trends,
)
from lb_pipelines.cli.access import database_opened
from lb_pipelines.cli.telling import AsJson, errors_told, say
from lb_pipelines.db.migrate import upgrade

app = typer.Typer(
    help="Leaderboards for education.", no_args_is_help=True, pretty_exceptions_enable=False
)


app.command(epilog=boards.BOARD_EXAMPLES)(boards.board)
app.command(epilog=boards.HISTORY_EXAMPLES)(boards.history)
app.command(epilog=boards.RANK_EXAMPLES)(boards.rank)
app.command(epilog=boards.AROUND_EXAMPLES)(boards.around)
app.command(epilog=trends.TRENDS_EXAMPLES)(trends.trends)
app.command(epilog=trends.COMPARE_EXAMPLES)(trends.compare)
app.command(epilog=insight.EXAMPLES)(insight.insight)
app.command(epilog=extracts.EXAMPLES)(extracts.export)


@app.command()
def migrate(as_json: AsJson = False) -> None:
    """Bring the database to the schema of this version."""
    with errors_told(as_json), database_opened(migrated=False) as database:
        upgrade(database)
    say({"migrated": True}, as_json, "The schema is up to date.")


app.command(epilog=operations.MISSING_EXAMPLES)(operations.missing)
app.command(epilog=operations.PREVIEW_EXAMPLES)(operations.preview)
app.add_typer(imports.app, name="import")
app.command()(imports.generate)
app.add_typer(archive.app, name="archive")
archive.app.command(epilog=exports.EXPORT_EXAMPLES)(exports.export)
archive.app.command(epilog=exports.CHECK_EXAMPLES)(exports.check)
archive.app.command("import", epilog=exports.IMPORT_EXAMPLES)(exports.import_archive)
app.command(epilog=returns.RESTORE_EXAMPLES)(returns.restore)
app.command(epilog=returns.REMATERIALIZE_EXAMPLES)(returns.rematerialize)
app.add_typer(holds.app, name="hold")
app.add_typer(purges.app, name="purge")
app.add_typer(erasures.app, name="erase")
