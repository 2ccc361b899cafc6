"""What Dagster loads: `dagster dev -m lb_pipelines.definitions`."""

from lb_pipelines.orchestration.build import build_defs

defs = build_defs()
