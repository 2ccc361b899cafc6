"""The application `lb`: its verbs in the order of its help, and the schema that all of them need.

A new family of verbs is a module of its own, added here.
"""

from __future__ import annotations

import typer

from lb_pipelines.cli import imports
from lb_pipelines.cli.access import database_opened
from lb_pipelines.cli.telling import AsJson, errors_told, say
from lb_pipelines.db.migrate import upgrade

app = typer.Typer(
    help="Leaderboards for education.", no_args_is_help=True, pretty_exceptions_enable=False
)


@app.command()
def migrate(as_json: AsJson = False) -> None:
    """Bring the database to the schema of this version."""
    with errors_told(as_json), database_opened(migrated=False) as database:
        upgrade(database)
    say({"migrated": True}, as_json, "The schema is up to date.")


app.add_typer(imports.app, name="import")
app.command()(imports.generate)
