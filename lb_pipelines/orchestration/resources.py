"""What assets, jobs, schedules and sensors are given: the database, opened when first used."""

from __future__ import annotations

from functools import cached_property

from dagster import ConfigurableResource, InitResourceContext
from pydantic import Field

from lb_pipelines.db.engine import Database
from lb_pipelines.settings import Settings


class LeaderboardDatabase(ConfigurableResource):
    """The project's database; `url` is for tests, elsewhere the environment says which it is."""

    url: str | None = Field(
        default=None,
        description="Any PostgreSQL URL; unset: LB_DATABASE_URL, else the embedded server.",
    )

    @cached_property
    def database(self) -> Database:
        """The same `Database` as long as this resource lives; nothing is opened by asking."""
        settings = Settings.from_env()
        return Database(self.url or settings.database_url, leaf_budget=settings.leaf_budget)

    def teardown_after_execution(self, context: InitResourceContext) -> None:
        """Give the connections back at the end of a run, a tick of a schedule or of a sensor."""
        if "database" in self.__dict__:
            self.database.close()
