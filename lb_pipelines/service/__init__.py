"""Reading what lasts: boards, histories, trends and the exact rank of anybody, for Python.

`LeaderboardService` is the door; what it gives back lies in `results`. It knows the database and
the domain, not Dagster. Reading runs as lb_reader under row level security, for one institution a
transaction.
"""

from lb_pipelines.service.boards import LeaderboardService

__all__ = ["LeaderboardService"]
