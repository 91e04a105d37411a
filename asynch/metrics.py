"""What a process counts of its own work, in registries of its own; what Postgres knows better is asked of Postgres."""

from __future__ import annotations

import os
import shutil
import tempfile
from functools import lru_cache

import prometheus_client
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, ProcessCollector, multiprocess, values

from asynch.errors import UserError

prometheus_client.disable_created_metrics()  # type: ignore[no-untyped-call]

#: where processes that answer as one keep their counters, empty for one that answers for itself
_shared = ""
_HUMAN_S = (0.01, 0.05, 0.1, 0.5, 1, 5, 15, 60, 300, 900, 3600, 14400, 86400)
_REQUEST_S = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60)

#: There is one worker a process, so its metrics are the module's; of APIs a test has several.
WORKER = CollectorRegistry()
ProcessCollector(registry=WORKER)

CLAIMS = Counter(
    "asynch_claims",
    "Tasks claimed, by the half of the work they were claimed for; follow: the model works on and is asked.",
    ["phase"],
    registry=WORKER,
)
ATTEMPTS = Counter(
    "asynch_attempts",
    "Outcomes of claims: the event, or stale when the task was someone else's by then; code of a failure.",
    ["phase", "event", "code"],
    registry=WORKER,
)
WAITED = Histogram(
    "asynch_waited_seconds", "From a task's time to the claim of its call.", buckets=_HUMAN_S, registry=WORKER
)
CALLED = Histogram(
    "asynch_called_seconds",
    "From the claim to the saved answer (save) or the failure (fail, give_up).",
    ["event"],
    buckets=_HUMAN_S,
    registry=WORKER,
)
STORED = Histogram(
    "asynch_stored_seconds", "From the saved answer to its delivery by one upload.", buckets=_HUMAN_S, registry=WORKER
)
STORAGE_ERRORS = Counter("asynch_storage_errors", "What the object store failed to do.", ["operation"], registry=WORKER)
SESSIONS_LOST = Counter("asynch_sessions_lost", "Claim sessions that ended before their worker did.", registry=WORKER)
CLEANED = Counter("asynch_cleaned", "What the cleaner and the rescue changed, by duty.", ["duty"], registry=WORKER)
CLEANER_RUN = Gauge(
    "asynch_cleaner_last_run_timestamp_seconds", "When a duty last came to its end here.", ["duty"], registry=WORKER
)
CLEANER_LEADS = Gauge("asynch_cleaner_leads", "1 where this process leads the cleaner.", registry=WORKER)
TMP_USED = Gauge("asynch_tmp_used_bytes", "Results in tmp_dir.", registry=WORKER)
TMP_LIMIT = Gauge("asynch_tmp_limit_bytes", "worker.tmp_max.", registry=WORKER)
TMP_BLOCKED = Gauge("asynch_tmp_blocked", "1 while tmp_dir lets no call start.", registry=WORKER)
CALL_THREADS = Gauge("asynch_call_threads", "worker.threads.", registry=WORKER)
CALL_THREADS_FREE = Gauge("asynch_call_threads_free", "Calls that could start here now.", registry=WORKER)

#: The same by its labels; prometheus_client's own look-up takes longer than all else that counting an outcome does.
attempts_by = lru_cache(512)(ATTEMPTS.labels)
called_by = lru_cache(16)(CALLED.labels)

# A rate needs the zero before the first one.
for _phase in ("call", "follow", "upload"):
    CLAIMS.labels(_phase)
for _operation in ("put", "delete"):
    STORAGE_ERRORS.labels(_operation)


def serve_worker(port: int) -> None:
    """Answer scrapes on loopback until the process ends. UserError when the port is not to be had."""
    try:
        prometheus_client.start_http_server(port, addr="127.0.0.1", registry=WORKER)
    except OSError as exc:
        raise UserError(f"worker.metrics_port = {port}: {exc.strerror}") from exc


class ApiMeter:
    """What the applications of one API count; `registry` tells it for all of its processes together."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        own = self.registry
        if _shared:
            own = CollectorRegistry()
            multiprocess.MultiProcessCollector(self.registry, _shared)  # type: ignore[no-untyped-call]
        self.requests = Counter(
            "asynch_http_requests", "Requests answered.", ["route", "method", "status"], registry=own
        )
        self.seconds = Histogram(
            "asynch_http_request_seconds",
            "From a request's headers to its answer's.",
            ["route", "method"],
            buckets=_REQUEST_S,
            registry=own,
        )
        self.created = Counter("asynch_tasks_created", "Tasks accepted.", registry=own)
        self.refused = Counter(
            "asynch_refused", "Requests, and items of batches, that were refused.", ["route", "code"], registry=own
        )
        self.pool_waiting = Gauge(
            "asynch_pool_waiting",
            "Requests that wait for a database connection, as the latest request found it.",
            multiprocess_mode="livesum",
            registry=own,
        )


def share_between_processes() -> None:
    """Let the counters of all forks add up, through files. To be called before the first ApiMeter is made.

    The library reads its variable when it is imported, long before a setting is known; hence the last line.
    """
    global _shared
    _shared = tempfile.mkdtemp(prefix="asynch-metrics-")
    os.environ["PROMETHEUS_MULTIPROC_DIR"] = _shared
    values.ValueClass = values.MultiProcessValue()  # type: ignore[no-untyped-call]


def forget_process(pid: int) -> None:
    """One of the sharing processes ended: what it counted stays, what it had at the moment goes."""
    if _shared:
        multiprocess.mark_process_dead(pid, _shared)  # type: ignore[no-untyped-call]


def stop_sharing() -> None:
    """The last of the sharing processes ended: remove the files."""
    if _shared:
        shutil.rmtree(_shared, ignore_errors=True)
