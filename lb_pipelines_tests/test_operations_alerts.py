"""Alerts of real failed runs, at a webhook and a mailbox on this machine."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from datetime import date, timedelta

import pytest
from dagster import DagsterInstance, build_sensor_context, job, op

from lb_pipelines.core.periods import DayRange
from lb_pipelines.db.engine import Database
from lb_pipelines.errors import InvalidEnvironment
from lb_pipelines.orchestration.alerts import delivery
from lb_pipelines.orchestration.alerts.delivery import channels
from lb_pipelines.orchestration.alerts.sensor import ALERTS_SENSOR
from lb_pipelines.orchestration.build import build_defs
from lb_pipelines.orchestration.partitions import Rectangle
from lb_pipelines.settings import AlertSettings, Settings
from lb_pipelines_tests.orchestration_district import START, District
from lb_pipelines_tests.receivers import HttpReceiver, MailReceiver
from lb_pipelines_tests.waiting import LIMIT_SECONDS

DAY = DayRange(date(2024, 4, 1), date(2024, 4, 1))
BROKEN = '{"leaderboardRanking": "best"}'


class Ticks:
    """The sensor of the definitions, evaluated tick after tick."""

    def __init__(self, district: District, settings: AlertSettings) -> None:
        district.settings = Settings(
            home=district.settings.home,
            start_day=START,
            given_ui_url="https://dagster.school.example/",
            alerts=settings,
        )
        self.district = district
        self.cursor: str | None = None

    def tick(self) -> str:
        """Evaluate once; what the tick says."""
        context = build_sensor_context(instance=self.district.instance, cursor=self.cursor)
        data = (
            self.district.defs.get_repository_def()
            .get_sensor_def(ALERTS_SENSOR)
            .evaluate_tick(context)
        )
        self.cursor = data.cursor
        assert data.skip_message
        return data.skip_message


@pytest.fixture
def district(database: Database, tmp_path, monkeypatch: pytest.MonkeyPatch) -> Iterator[District]:
    # The receivers are threads of this process: on a slow machine they answer when they can.
    monkeypatch.setattr(delivery, "_SECONDS", LIMIT_SECONDS)
    with DagsterInstance.ephemeral() as instance:
        district = District(database, instance, Settings(home=tmp_path, start_day=START))
        district.add("a")
        district.add("broken", metadata=BROKEN)
        yield district


def test_who_failed_is_told_once_to_each_receiver_whatever_else_is_down(
    district: District,
) -> None:
    with HttpReceiver.listening() as hook, MailReceiver.listening() as (mailbox, smtp):
        ticks = Ticks(
            district,
            AlertSettings(hook.url, ("ops@school.example", "b@school.example"), "lb@x.org", smtp),
        )
        district.run(Rectangle(DAY, "broken", "broken"))
        assert ticks.tick() == "Tells of runs that fail from now on."
        assert ticks.tick() == "No run has failed."
        failed = district.run(Rectangle(DAY, "a", "broken"))
        district.run(Rectangle(DAY, "a", "a"))
        # The webhook is down: the mail goes out, the tick goes on.
        hook.status = 503
        assert ticks.tick() == "1 by email; webhook: 127.0.0.1 answered with status 503"
        [mail] = mailbox.got
        assert mail["Subject"] == "daily_leaderboards failed: broken"
        assert mail["To"] == "ops@school.example, b@school.example"
        text = mail.get_content()
        assert f"Run: https://dagster.school.example/runs/{failed.run_id}" in text
        assert (
            "broken (at its settings): Institution 'broken': metadata.leaderboardRanking is 'best'."
            " Set it to 'competition' or 'dense' or 'ordinal'"
        ) in text
        # Not at once again, and then once.
        hook.status = 204
        assert re.fullmatch(r"webhook is tried again at [\d:]+ UTC", ticks.tick())
        district.now += timedelta(seconds=30)
        again = district.run(Rectangle(DAY, "a", "broken"), resumes=failed.run_id)
        assert ticks.tick() == "2 by webhook; 1 by email"
        assert [told["runId"] for told in hook.got] == [failed.run_id, again.run_id]
        told = hook.got[0]
        assert told["institutions"] == [
            {
                "institution": "broken",
                "at": "its settings",
                "what": "Institution 'broken': metadata.leaderboardRanking is 'best'",
                "remedy": "Set it to 'competition' or 'dense' or 'ordinal'",
            }
        ]
        assert told["covers"] == "2024-04-01..2024-04-01"
        assert "student-" not in json.dumps(hook.got) + "".join(m.as_string() for m in mailbox.got)
        # A tick whose cursor was lost with the daemon sends nothing again.
        before = json.loads(ticks.cursor or "")
        ticks.cursor = json.dumps({**before, "after": 0, "waiting": {"webhook": [failed.run_id]}})
        ticks.tick()
        assert [m["Message-ID"].count(failed.run_id) for m in mailbox.got[:2]] == [1, 0]
        runs = [told["runId"] for told in hook.got]
        assert len(runs) == len(set(runs)) == 3  # The one that failed before, by the cursor's fault


def test_a_receiver_that_is_not_there_is_tried_less_and_less_often(district: District) -> None:
    # A port that nobody listens at.
    with HttpReceiver.listening() as gone:
        url = gone.url
    with MailReceiver.listening() as (mailbox, smtp):
        ticks = Ticks(district, AlertSettings(url, ("x@y.org",), "lb@x.org", smtp))
        mailbox.refused = {"x@y.org"}
        ticks.tick()
        district.run(Rectangle(DAY, "broken", "broken"))
        tries = []
        for _ in range(20):
            said = ticks.tick()
            if "cannot be reached" in said:
                assert said == (
                    "webhook: 127.0.0.1 cannot be reached (ConnectionError); "
                    "email: 127.0.0.1 refuses x@y.org"
                )
                tries.append(district.now)
            district.now += timedelta(seconds=30)
        assert [(b - a).total_seconds() for a, b in zip(tries, tries[1:], strict=False)] == [
            30, 60, 120, 240,
        ]  # fmt: skip
        mailbox.refused = set()
        district.now += timedelta(hours=1)
        assert ticks.tick().startswith("1 by email; webhook: 127.0.0.1 cannot be reached")


def test_a_run_that_dagster_tries_again_is_told_of_at_its_last_failure(district: District) -> None:
    with HttpReceiver.listening() as hook:
        ticks = Ticks(district, AlertSettings(hook.url))
        ticks.tick()

        @op
        def falls() -> None:
            raise ValueError("first line\nstudent-1")

        @job(tags={"dagster/will_retry": "true"})
        def fragile() -> None:
            falls()

        result = fragile.execute_in_process(instance=district.instance, raise_on_error=False)
        ticks.tick()
        assert hook.got == []
        # The daemon could not start the retry after all.
        district.instance.add_run_tags(result.run_id, {"dagster/will_retry": "false"})
        assert ticks.tick() == "1 by webhook"
        assert hook.got[0]["message"] == "falls: ValueError: first line"
        assert hook.got[0]["institutions"] == []
        # Of one that another run has taken up, that other run tells.
        result = fragile.execute_in_process(instance=district.instance, raise_on_error=False)
        ticks.tick()
        district.instance.add_run_tags(result.run_id, {"dagster/auto_retry_run_id": "another"})
        assert ticks.tick() == "No run has failed."
        assert len(hook.got) == 1


def test_nobody_to_tell_means_no_sensor(tmp_path) -> None:
    defs = build_defs(settings=Settings(home=tmp_path))
    assert ALERTS_SENSOR not in {one.name for one in defs.sensors or ()}
    assert channels(AlertSettings(smtp_url="smtp://h")) == {}


E_MAIL = {
    "LB_ALERT_EMAIL_TO": "a@b.c, d@e.f",
    "LB_ALERT_EMAIL_FROM": "lb@x.org",
    "LB_SMTP_URL": "smtps://u:p%40ss@mail.example:465",
}


def test_the_environment_configures_alerts_and_is_refused_by_name() -> None:
    read = Settings.from_env({**E_MAIL, "LB_ALERT_WEBHOOK_URL": "https://hooks.example/T0/x"})
    assert read.alerts == AlertSettings(
        "https://hooks.example/T0/x", ("a@b.c", "d@e.f"), "lb@x.org", E_MAIL["LB_SMTP_URL"]
    )
    assert set(channels(read.alerts)) == {"webhook", "email"}
    assert read.ui_url == "http://127.0.0.1:3000"
    for variable, value in (
        ("LB_ALERT_WEBHOOK_URL", "hooks.example/secret"),
        ("LB_ALERT_WEBHOOK_URL", "ftp://hooks.example/secret"),
        ("LB_ALERT_WEBHOOK_URL", "https://hooks.example:port/secret"),
        ("LB_UI_URL", "dagster"),
        ("LB_ALERT_EMAIL_TO", "nobody"),
        ("LB_ALERT_EMAIL_TO", "a@b.c;d@e.f"),
        ("LB_ALERT_EMAIL_FROM", "a@b@c"),
        ("LB_SMTP_URL", "http://u:secret@mail.example"),
        ("LB_SMTP_URL", ""),
        ("LB_ALERT_EMAIL_FROM", ""),
        ("LB_ALERT_EMAIL_TO", ""),
    ):
        with pytest.raises(InvalidEnvironment) as refused:
            Settings.from_env({**E_MAIL, variable: value})
        assert refused.value.variable == variable
        assert "secret" not in str(refused.value)
