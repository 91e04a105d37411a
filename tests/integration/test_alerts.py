"""The alerts in deploy/ by Prometheus' own tool: each fires at what it is for, and at nothing near it."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import yaml

from tests.programs import REPOSITORY

RULES = REPOSITORY / "deploy/prometheus/asynch.rules.yml"
CALLS = 'asynch_claims_total{phase="call"}'
GAVE_UP = 'asynch_attempts_total{phase="call", event="give_up", code="http_5xx"}'
OK, BAD = 'asynch_http_requests_total{status="202"}', 'asynch_http_requests_total{status="503"}'


class Case(NamedTuple):
    """Series by name as the tool writes them (`0x60`: 0 for an hour), and how many alerts they make in 50 minutes."""

    series: Mapping[str, str]
    fire: int = 0


CASES: dict[str, list[Case]] = {
    "AsynchNotScraped": [
        Case({}, 1),
        Case({"asynch_database_up": "0x60"}),
        Case({"asynch_database_up": "1x47 _x10"}),  # for two minutes
    ],
    "AsynchDatabaseDown": [
        Case({'asynch_database_up{instance="a"}': "0x60", 'asynch_database_up{instance="b"}': "0x60"}, 1),
        Case({'asynch_database_up{instance="a"}': "0x60", 'asynch_database_up{instance="b"}': "1x60"}),
    ],
    "AsynchSurveyIncomplete": [
        Case({"asynch_database_up": "1x60", 'asynch_survey_ok{part="queue"}': "0x60", 'asynch_survey_ok{part="now"}': "1x60"}, 1),
        Case({"asynch_database_up": "0x60", 'asynch_survey_ok{part="queue"}': "0x60"}),
    ],
    "AsynchNoWorker": [Case({"asynch_workers": "0x60"}, 1), Case({"asynch_workers": "1x60"})],
    "AsynchWaitsTooLong": [
        Case({'asynch_queue_oldest_wait_seconds{tenant="1", model="a"}': "2000+60x60",
              'asynch_queue_oldest_wait_seconds{tenant="1", model="b"}': "4000x60",
              'asynch_queue_oldest_wait_seconds{tenant="2", model="a"}': "3600x60"}, 2),
    ],
    "AsynchQueueFull": [
        Case({'asynch_refused_total{code="queue_full", route="/task/createTask"}': "0+10x60"}, 1),
        Case({'asynch_refused_total{code="queue_full", route="/task/createTask"}': "700x60",
              'asynch_refused_total{code="unauthorized", route="/task/createTask"}': "0+10x60"}),
    ],
    "AsynchTasksFail": [
        Case({CALLS: "0+100x60", GAVE_UP: "0+30x60"}, 1),
        Case({CALLS: "0+100x60", GAVE_UP: "0+10x60"}),
        Case({CALLS: "5x60", GAVE_UP: "5x60"}),
    ],
    "AsynchUploadsStuck": [
        Case({"asynch_uploads_oldest_seconds": "2000x60", "asynch_uploads_waiting": "3x60"}, 1),
        Case({"asynch_uploads_oldest_seconds": "1700x60", "asynch_uploads_waiting": "3x60"}),
        Case({"asynch_uploads_oldest_seconds": "2000x60", "asynch_uploads_waiting": "0x60"}),
    ],
    "AsynchStorageFails": [
        Case({'asynch_storage_errors_total{operation="put"}': "0+1x60", 'asynch_storage_errors_total{operation="get"}': "9x60"}, 1),
    ],
    "AsynchTmpDirBlocked": [
        Case({'asynch_tmp_blocked{instance="a"}': "1x60", 'asynch_tmp_blocked{instance="b"}': "0x60"}, 1),
    ],
    "AsynchTmpDirFills": [
        Case({'asynch_tmp_used_bytes{instance="a"}': "85x60", 'asynch_tmp_limit_bytes{instance="a"}': "100x60",
              'asynch_tmp_used_bytes{instance="b"}': "85x60", 'asynch_tmp_limit_bytes{instance="b"}': "200x60"}, 1),
    ],
    "AsynchHeldSnapshot": [
        Case({"asynch_oldest_snapshot_seconds": "0+60x60"}, 1), Case({"asynch_oldest_snapshot_seconds": "500x60"}),
    ],
    "AsynchLocksScarce": [
        Case({"asynch_slots_configured": "60x60", "asynch_locks_held": "1x60", "asynch_lock_capacity": "100x60"}, 1),
        Case({"asynch_slots_configured": "10x60", "asynch_locks_held": "80x60", "asynch_lock_capacity": "100x60"}, 1),
        Case({"asynch_slots_configured": "40x60", "asynch_locks_held": "60x60", "asynch_lock_capacity": "100x60"}),
    ],
    "AsynchSessionsLost": [
        Case({'asynch_sessions_lost_total{instance="a"}': "0+1x60", 'asynch_sessions_lost_total{instance="b"}': "0x40 1x20"}, 1),
    ],
    "AsynchCleanerStopped": [
        # times of a day that begins with the test: the first duty ended at minute 2, the others just now
        Case({'asynch_cleaner_last_run_timestamp_seconds{duty="retry"}': "120x60",
              'asynch_cleaner_last_run_timestamp_seconds{duty="expire"}': "0+60x60",
              'asynch_cleaner_last_run_timestamp_seconds{duty="notice"}': "120x60"}, 1),
    ],
    "AsynchNoCleaner": [
        Case({'asynch_cleaner_leads{instance="a"}': "0x60", 'asynch_cleaner_leads{instance="b"}': "0x60"}, 1),
        Case({'asynch_cleaner_leads{instance="a"}': "0x60", 'asynch_cleaner_leads{instance="b"}': "1x60"}),
    ],
    "AsynchPoolExhausted": [Case({"asynch_pool_waiting": "2x60"}, 1), Case({"asynch_pool_waiting": "0x60"})],
    "AsynchHttpErrors": [Case({OK: "0+100x60", BAD: "0+10x60"}, 1), Case({OK: "0+100x60", BAD: "0+4x60"})],
}  # fmt: skip


@pytest.fixture(scope="module")
def promtool() -> str:
    found = shutil.which("promtool")
    if found is None:
        missing = pytest.fail if os.environ.get("CI") else pytest.skip
        missing("promtool, of Debian's package prometheus, is not installed")
    return str(found)


def rules() -> list[dict[str, Any]]:
    return [rule for group in yaml.safe_load(RULES.read_text())["groups"] for rule in group["rules"]]


def test_every_alert_has_a_case_that_fires() -> None:
    names = [rule["alert"] for rule in rules()]

    assert sorted(names) == sorted(CASES)
    assert all(any(case.fire for case in cases) for cases in CASES.values())


def test_prometheus_takes_the_rules(promtool: str) -> None:
    checked = subprocess.run([promtool, "check", "rules", str(RULES)], capture_output=True, text=True, check=False)

    assert checked.returncode == 0, checked.stdout + checked.stderr
    assert f"{len(CASES)} rules found" in checked.stdout


@pytest.mark.parametrize(("alert", "case"), [(a, c) for a, cases in CASES.items() for c in cases])
def test_an_alert_fires_at_what_it_is_for(promtool: str, tmp_path: Path, alert: str, case: Case) -> None:
    asked = f'count(ALERTS{{alertname="{alert}", alertstate="firing"}}) or vector(0)'
    trial = {
        "rule_files": [str(RULES)],
        "evaluation_interval": "1m",
        "tests": [
            {
                "interval": "1m",
                "input_series": [{"series": name, "values": values} for name, values in case.series.items()],
                "promql_expr_test": [
                    {"expr": asked, "eval_time": "50m", "exp_samples": [{"labels": "{}", "value": case.fire}]}
                ],
            }
        ],
    }
    (tmp_path / "trial.yml").write_text(yaml.safe_dump(trial))
    ran = subprocess.run(
        [promtool, "test", "rules", "trial.yml"], cwd=tmp_path, capture_output=True, text=True, check=False
    )

    assert ran.returncode == 0, ran.stdout + ran.stderr


def test_an_alert_has_what_whoever_is_woken_needs() -> None:
    for rule in rules():
        assert re.fullmatch(r"\d+[smh]", rule.get("for", "1m"))
        assert rule["labels"]["severity"] in ("critical", "warning")
        assert {"summary", "description"} == set(rule["annotations"])
