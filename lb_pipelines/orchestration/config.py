"""What a person may set for a run of the assets: the fields of the launchpad.

The defaults are the safe ones: started by hand, the archive only shows what it would move, and
archived boards stay as they are. Jobs and sensors that are meant to move rows say so.
"""

from collections.abc import Iterable, Mapping

from dagster import Config
from pydantic import Field

from lb_pipelines.core.words import Granularity
from lb_pipelines.errors import InvalidSelection

INSTITUTION_FIELD = "The institution's id."
MOVES_TAG = {"leaderboards/archive": "move"}
"""On the runs of a job that is meant to archive: Dagster gives a job's own config to runs of one
partition, but to none over many.
"""


class LeaderboardsConfig(Config):
    """What a run of any of the assets may do beyond writing the boards of its partitions."""

    archive_dry_run: bool | None = Field(
        default=None,
        description=(
            "archived_snapshots: true only shows what has expired and would be archived, false "
            "archives it. Unset: true, but in reward_processing false."
        ),
    )
    archive_granularities: list[str] = Field(
        default=[str(granularity) for granularity in Granularity],
        description="archived_snapshots: the granularities of which expired snapshots move.",
    )
    rematerialize_archived: bool = Field(
        default=False,
        description=(
            "Snapshots: make archived boards of these days anew as well. Their copy in the archive "
            "is renewed with a revision; lb.archive_revisions keeps the old hash. Boards under a "
            "legal hold are refused. Otherwise what is archived stays as it is."
        ),
    )

    def moves(self, tags: Mapping[str, str]) -> bool:
        """Whether a run with these tags archives, or only shows what it would."""
        if self.archive_dry_run is not None:
            return not self.archive_dry_run
        return MOVES_TAG.items() <= tags.items()

    @property
    def granularities(self) -> tuple[Granularity, ...]:
        """The granularities to archive; raises `InvalidSelection` for a word that is none."""
        return granularities(self.archive_granularities)


def granularities(words: Iterable[str]) -> tuple[Granularity, ...]:
    """Granularities by their words, in the domain's order; raises `InvalidSelection`."""
    given = set(words)
    strange = sorted(given - set(Granularity))
    if strange or not given:
        raise InvalidSelection(
            f"{', '.join(map(repr, strange)) or 'Nothing'} is no granularity",
            f"Give one or more of {', '.join(Granularity)}",
        )
    return tuple(granularity for granularity in Granularity if granularity in given)
