"""`export_archive` and `import_archive`: the archive as files that anybody can verify, and back."""

from pathlib import Path

from dagster import Config, JobDefinition, OpExecutionContext, job, op
from pydantic import Field

from lb_pipelines.clock import Clock, utc_now
from lb_pipelines.core.periods import local_day
from lb_pipelines.orchestration.jobs import RETENTION, WORK_TAG
from lb_pipelines.orchestration.resources import LeaderboardDatabase
from lb_pipelines.orchestration.retention_jobs.shared import (
    WHO,
    SelectionConfig,
    actor_of,
    institution_of,
    refusals_told,
    tell,
)
from lb_pipelines.retention import exporting, importing, restoring
from lb_pipelines.retention.exporting import VerifiedExport

EXPORT_ARCHIVE = "export_archive"
IMPORT_ARCHIVE = "import_archive"


class ExportConfig(SelectionConfig):
    """Which archived snapshots are written to files, and where."""

    directory: str = Field(description="A new directory on the machine that the run works on.")
    requested_by: str = Field(default="Dagster", description=WHO)
    dry_run: bool = Field(
        default=False, description="Only say how much would be written, and write nothing."
    )


class ImportConfig(Config):
    """Which export is verified, and whether its snapshots come into the archive."""

    directory: str = Field(description="The directory of an export: manifest.json and its files.")
    requested_by: str = Field(default="Dagster", description=WHO)
    dry_run: bool = Field(
        default=True, description="Only verify the files, and bring nothing into the archive."
    )


def export_archive_job() -> JobDefinition:
    """The job that writes a selection of the archive to files and verifies them."""

    @op(name="export_snapshots")
    def _export(
        context: OpExecutionContext,
        config: ExportConfig,
        leaderboard_database: LeaderboardDatabase,
    ) -> None:
        database = leaderboard_database.database
        with refusals_told():
            institution = institution_of(database, config.institution)
            selection = config.selection
            if config.dry_run:
                plan = restoring.plan_restore(database, institution, selection)
                tell(
                    context,
                    f"{institution.id}: {plan.rows:,} archived snapshots would be exported to "
                    f"{config.directory}",
                    table=[
                        {
                            "institution": institution.id,
                            "rows": f"{plan.rows:,}",
                            "bytes": f"{plan.bytes:,}",
                            "from": str(plan.first or ""),
                            "to": str(plan.last or ""),
                        }
                    ],
                    numbers={"rows_to_export": plan.rows},
                    dry_run=True,
                )
                return
            exported = exporting.export_archive(
                database,
                institution,
                selection,
                Path(config.directory),
                actor_of(context, config.requested_by),
            )
            verified = exporting.verify_export(exported.directory)
            tell(
                context,
                f"{institution.id}: {exported.rows:,} archived snapshots were exported to "
                f"{exported.directory} and verified",
                table=[_shown(verified) | {"ledger": str(exported.export)}],
                numbers={"rows_exported": exported.rows, "bytes_exported": exported.bytes},
            )

    @job(
        name=EXPORT_ARCHIVE,
        description=(
            "Writes a selection of the archive into a new directory, as Parquet files with a "
            "manifest of their SHA-256, and verifies what it has written. Nothing in the archive "
            "changes."
        ),
        tags={WORK_TAG: RETENTION},
    )
    def _export_archive() -> None:
        _export()

    return _export_archive


def import_archive_job(now: Clock = utc_now) -> JobDefinition:
    """The job that verifies an export and brings it back into the archive."""

    @op(name="import_snapshots")
    def _import(
        context: OpExecutionContext,
        config: ImportConfig,
        leaderboard_database: LeaderboardDatabase,
    ) -> None:
        database, directory = leaderboard_database.database, Path(config.directory)
        with refusals_told():
            verified = exporting.verify_export(directory)
            if config.dry_run:
                tell(
                    context,
                    f"{directory} is whole: {verified.rows:,} archived snapshots of "
                    f"{verified.institution_id} in {verified.files} files",
                    table=[_shown(verified)],
                    numbers={"rows_to_import": verified.rows},
                    dry_run=True,
                )
                return
            institution = institution_of(database, verified.institution_id)
            imported = importing.import_export(
                database,
                directory,
                actor_of(context, config.requested_by),
                local_day(now(), institution.zone),
            )
            row = _shown(verified) | {
                "imported": f"{imported.rows:,}",
                "there already": f"{imported.there:,}",
                "ledger": str(imported.archive_run or ""),
            }
            tell(
                context,
                f"{imported.institution_id}: {imported.rows:,} archived snapshots were imported "
                f"from {directory}, {imported.there:,} were there already",
                table=[row],
                numbers={"rows_imported": imported.rows, "rows_there": imported.there},
            )

    @job(
        name=IMPORT_ARCHIVE,
        description=(
            "Verifies an export: every file against the manifest's SHA-256. With dry_run set to "
            "false its snapshots come into the archive of the institution that it names, all or "
            "none; those that are there already stay."
        ),
        tags={WORK_TAG: RETENTION},
    )
    def _import_archive() -> None:
        _import()

    return _import_archive


def _shown(export: VerifiedExport) -> dict[str, str]:
    return {
        "institution": export.institution_id,
        "directory": str(export.directory),
        "files": f"{export.files:,}",
        "rows": f"{export.rows:,}",
        "bytes": f"{export.bytes:,}",
        "digest": f"`{export.digest}`",
        "SHA-256 of the manifest": f"`{export.manifest_sha256}`",
    }
