"""Dagster's daemon itself, without the pauses that are for machines with other things to do.

It looks after backfills and the queue every second and not every thirty and every five, and asks a
sensor at every turn of its loop (5 s) and not every minute.
"""

from dagster._core.run_coordinator.queued_run_coordinator import QueuedRunCoordinator
from dagster._daemon import cli, controller, sensor

if __name__ == "__main__":
    controller.DEFAULT_DAEMON_INTERVAL_SECONDS = 1
    QueuedRunCoordinator.dequeue_interval_seconds = 1
    sensor.is_under_min_interval = lambda *_: False
    cli.main()
