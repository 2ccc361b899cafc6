"""The conversation with Dagster's webserver, in the words the UI itself uses (GraphQL).

Runs that are started here are in no way special: the queue, the daemon and the run list treat
them like those of a person. Dagster is not imported, which would cost a start two seconds.
"""

from __future__ import annotations

import json
import urllib.error
import urllib.request
from collections.abc import Mapping, Sequence
from typing import Any

from lb_pipelines.errors import RunFailed

_SECONDS = 60.0
FINISHED = {"SUCCESS", "FAILURE", "CANCELED"}

_LOCATION = """
query Location {
  workspaceOrError {
    __typename
    ... on Workspace {
      locationEntries {
        name
        loadStatus
        locationOrLoadError {
          __typename
          ... on PythonError { message }
          ... on RepositoryLocation { repositories { name } }
        }
      }
    }
  }
}
"""
_LAUNCH = """
mutation Launch($params: ExecutionParams!) {
  launchRun(executionParams: $params) {
    __typename
    ... on LaunchRunSuccess { run { runId } }
    ... on PythonError { message }
    ... on InvalidSubsetError { message }
    ... on PipelineNotFoundError { message }
    ... on RunConfigValidationInvalid { errors { message } }
  }
}
"""
_RUNS = """
query Runs($filter: RunsFilter!) {
  runsOrError(filter: $filter) {
    __typename
    ... on Runs { results { runId status } }
    ... on PythonError { message }
  }
}
"""


class DagsterClient:
    """Talks to the webserver at `address` about one code location."""

    def __init__(self, address: str, location: str) -> None:
        self.address = address
        self.location = location

    def ready(self) -> bool:
        """Whether the webserver answers and has loaded the code location.

        Raises `RunFailed` with Dagster's message where the location cannot be loaded.
        """
        try:
            answer = self._ask(_LOCATION, {})
        except (OSError, ValueError):
            return False
        for entry in answer["workspaceOrError"].get("locationEntries", ()):
            loaded = entry["locationOrLoadError"]
            if entry["name"] == self.location and loaded is not None:
                if loaded["__typename"] == "PythonError":
                    raise RunFailed(
                        f"Dagster cannot load {self.location}: {loaded['message']}",
                        "Correct the definitions and start again",
                    )
                return bool(entry["loadStatus"] == "LOADED")
        return False

    def launch(self, job: str, tags: Mapping[str, str]) -> str:
        """Put a run of a job into the queue; its id."""
        answer = self._ask(
            _LAUNCH,
            {
                "params": {
                    "selector": {
                        "repositoryName": "__repository__",
                        "repositoryLocationName": self.location,
                        "pipelineName": job,
                    },
                    "runConfigData": {},
                    "mode": "default",
                    "executionMetadata": {
                        "tags": [{"key": key, "value": value} for key, value in tags.items()]
                    },
                }
            },
        )["launchRun"]
        if answer["__typename"] != "LaunchRunSuccess":
            raise _refused(f"a run of {job}", answer)
        return str(answer["run"]["runId"])

    def statuses(self, run_ids: Sequence[str]) -> dict[str, str]:
        """The status of each of these runs."""
        return self._runs({"runIds": list(run_ids)})

    def at_work(self) -> list[str]:
        """The runs that some process should be working on now."""
        return list(self._runs({"statuses": ["STARTING", "STARTED", "CANCELING"]}))

    def _runs(self, which: Mapping[str, Any]) -> dict[str, str]:
        answer = self._ask(_RUNS, {"filter": which})["runsOrError"]
        if answer["__typename"] != "Runs":
            raise _refused("the list of runs", answer)
        return {run["runId"]: run["status"] for run in answer["results"]}

    def _ask(self, query: str, variables: Mapping[str, Any]) -> dict[str, Any]:
        request = urllib.request.Request(
            f"{self.address}/graphql",
            json.dumps({"query": query, "variables": variables}).encode(),
            {"Content-Type": "application/json"},
        )
        # The machine itself is asked: a proxy of the environment has no part in it.
        opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
        try:
            with opener.open(request, timeout=_SECONDS) as response:
                answer = json.load(response)
        except urllib.error.HTTPError as error:
            raise RunFailed(
                f"Dagster's webserver refused a request: {error.read().decode()[:2000]}",
                "See the log of the webserver",
            ) from error
        if answer.get("errors"):
            raise RunFailed(
                f"Dagster's webserver answered {answer['errors'][0]['message']!r}",
                "See the log of the webserver",
            )
        data: dict[str, Any] = answer["data"]
        return data


def _refused(what: str, answer: Mapping[str, Any]) -> RunFailed:
    message = answer.get("message") or answer.get("errors") or answer["__typename"]
    return RunFailed(f"Dagster refused {what}: {message}", "See the log of the webserver")
