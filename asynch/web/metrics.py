"""/metrics of the API: what its processes counted, and what the database says of the queue at this moment."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from time import monotonic

from flask import Blueprint, Response, g, request
from flask.typing import ResponseReturnValue
from prometheus_client import CONTENT_TYPE_LATEST, generate_latest
from prometheus_client.core import GaugeMetricFamily
from prometheus_client.registry import Collector

from asynch.errors import Refused
from asynch.service.creation import Created
from asynch.service.survey import PARTS, Survey
from asynch.store.survey import InHand, Locks, Waiting
from asynch.web import parts

bp = Blueprint("metrics", __name__)

#: those that are told by their names; whatever else a caller thinks of is one
METHODS = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"})


@bp.get("/metrics")
def metrics() -> ResponseReturnValue:
    """200 whatever the database does: parts that it does not answer are missing, and said to be."""
    made_of = parts()
    text = generate_latest(made_of.meter.registry) + generate_latest(_Surveyed(made_of.surveyor.look()))
    return Response(text, content_type=CONTENT_TYPE_LATEST)


def _route() -> str:
    """The template of this request's path; what matches none is one, whatever was asked for."""
    return request.url_rule.rule if request.url_rule else "unmatched"


def note_begin() -> None:
    """Count who waits for the database at this moment."""
    made_of = parts()
    made_of.meter.pool_waiting.set(made_of.pool.get_stats().get("requests_waiting", 0))


def note_end(response: Response) -> None:
    """Count this request with its answer."""
    meter = parts().meter
    method = request.method if request.method in METHODS else "other"
    meter.requests.labels(_route(), method, str(response.status_code)).inc()
    meter.seconds.labels(_route(), method).observe(monotonic() - g.since)
    if refusal := g.get("refusal"):
        _note_refusal(refusal)


def _note_refusal(code: str) -> None:
    parts().meter.refused.labels(_route(), code).inc()


def note_created(created: Created) -> None:
    """Count the items of a request that became tasks, and those that did not; once, however often it is repeated."""
    if created.replayed:
        return
    refusals = [result for result in created.results if isinstance(result, Refused)]
    parts().meter.created.inc(len(created.results) - len(refusals))
    for refusal in refusals:
        _note_refusal(refusal.code)


@dataclass(frozen=True, slots=True)
class _Surveyed(Collector):
    survey: Survey

    def collect(self) -> Iterator[GaugeMetricFamily]:
        survey = self.survey
        yield GaugeMetricFamily("asynch_database_up", "1 if Postgres could be asked.", float(survey.connected))
        yield GaugeMetricFamily("asynch_survey_seconds", "How long it took to ask.", survey.took_s)
        answered = GaugeMetricFamily("asynch_survey_ok", "1 for each part of the survey that is here.", labels=["part"])
        for part in PARTS:
            answered.add_metric([part], float(getattr(survey, part) is not None))
        yield answered
        if survey.snapshot is not None:
            text = "Age of the oldest transaction that keeps dead rows of the queue from being removed."
            yield GaugeMetricFamily("asynch_oldest_snapshot_seconds", text, survey.snapshot)
        if survey.locks is not None:
            yield from _locks(survey.locks)
        if survey.in_hand is not None:
            yield from _in_hand(survey.in_hand)
        if survey.waiting is not None:
            yield from _waiting(survey.waiting)


def _locks(locks: Locks) -> Iterator[GaugeMetricFamily]:
    yield GaugeMetricFamily("asynch_slots_held", "Calls that hold a slot.", locks.slots_held)
    yield GaugeMetricFamily("asynch_slots_configured", "Sum of maxConcurrency.", locks.slots_configured)
    yield GaugeMetricFamily("asynch_locks_held", "Entries of the server's lock table.", locks.held)
    yield GaugeMetricFamily("asynch_lock_capacity", "Entries it has room for, about.", locks.capacity)


def _in_hand(found: InHand) -> Iterator[GaugeMetricFamily]:
    yield GaugeMetricFamily("asynch_workers", "Workers heard of lately.", found.workers)
    yield GaugeMetricFamily("asynch_calls_running", "Tasks in the hands of call threads.", found.calls)
    yield GaugeMetricFamily("asynch_retries_waiting", "Failed calls in their back-off.", found.retries)
    yield GaugeMetricFamily("asynch_uploads_waiting", "Saved results that are not in storage yet.", found.uploads)
    text = "Age of the oldest of them, since its call began."
    yield GaugeMetricFamily("asynch_uploads_oldest_seconds", text, found.oldest_upload_s)


def _waiting(waiting: Waiting) -> Iterator[GaugeMetricFamily]:
    """Labels of the deepest lanes only; a tenant is a number, so no model can be taken for the rest."""
    labels = ["tenant", "model"]
    depth = GaugeMetricFamily("asynch_queue_depth", "Tasks that wait for their call, delayed ones too.", labels=labels)
    oldest = GaugeMetricFamily("asynch_queue_oldest_wait_seconds", "Longest wait of a due task.", labels=labels)
    for lane in waiting.lanes:
        depth.add_metric([str(lane.tenant_id), lane.model_name], lane.depth)
        oldest.add_metric([str(lane.tenant_id), lane.model_name], lane.oldest_s)
    depth.add_metric(["other", "other"], waiting.other_depth)
    oldest.add_metric(["other", "other"], waiting.other_oldest_s)
    yield depth
    yield oldest
    text = "1 while there is too much to count: depths are estimates, oldest waits are not."
    yield GaugeMetricFamily("asynch_queue_estimated", text, float(waiting.estimated))
