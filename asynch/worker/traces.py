"""The spans of a run: its wait, its work, each request to a model; of names, numbers and codes, never of content."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from time import monotonic
from urllib.parse import urlsplit

from asynch.domain import tracing
from asynch.domain.states import Event, Phase
from asynch.errors import ExecutorError
from asynch.executors import Order
from asynch.spans import Span, Tracer, Value
from asynch.store.queue import Claim, Outcome
from asynch.worker.running import Run

_SYSTEM = "asynch"
#: what came of a run that wrote nothing: the task was someone else's by then
_VOID = "void"
_PORTS = {"http": 80, "https": 443}


def begin(tracer: Tracer, run: Run) -> None:
    """Begin the span of this run as of its claim, beside that of the wait before it; again it does nothing.

    Both hang under the task's creation, and so does the upload by whatever attempt, process or host.
    """
    if run.span is not None:
        return
    claim, held_s = run.claim, monotonic() - run.since
    about = partial(_about, claim)
    if claim.phase is Phase.CALL and not claim.poll_url:
        waited_s = held_s + max(0.0, claim.waited_s)
        tracer.start("wait", "internal", under=claim.trace_context, ago_s=waited_s, attributes=about).end(held_s)
    verb = "process" if claim.phase is Phase.CALL else "upload"
    run.span = tracer.start(
        f"{verb} {_lane(claim)}", "consumer", under=claim.trace_context, ago_s=held_s, attributes=about
    )
    run.span.note("asynch.outcome", _VOID)


def note_outcome(run: Run, outcome: Outcome) -> None:
    """What was written of this run; that its model works on is not its end."""
    if run.span is None or outcome.event is Event.DEFER:
        return
    run.span.note("asynch.outcome", outcome.event.value)
    if outcome.failure is not None:
        run.span.fail(outcome.failure.code)


def end(run: Run) -> None:
    """Nothing of this run is left to do here."""
    if run.span is not None:
        run.span.end()


@contextmanager
def calling(tracer: Tracer, run: Run, order: Order) -> Iterator[Order]:
    """The span of one request to the model or receiver, and the order that tells them of it."""
    claim = run.claim
    url, method = (claim.poll_url, "GET") if claim.poll_url else (order.url, order.method)
    above = run.span.context if run.span is not None else claim.trace_context
    span = tracer.start(method, "client", under=above, attributes=partial(_request, method, url))
    run.call.http_status = None
    try:
        trace = tracing.headers(span.context)
        yield replace(order, trace=trace) if trace else order
    except ExecutorError as error:
        span.fail(error.code.value)
        raise
    finally:
        _note_status(span, run.call.http_status)
        span.end()


def _note_status(span: Span, status: int | None) -> None:
    if status is not None:
        span.note("http.response.status_code", status)


def _about(claim: Claim) -> dict[str, Value]:
    return {
        "messaging.system": _SYSTEM,
        "messaging.operation.type": "process",
        "messaging.destination.name": _lane(claim),
        "messaging.message.id": claim.task_id,
        "asynch.attempt": claim.attempt,
        "asynch.phase": claim.phase.name.lower(),
        "asynch.tenant_id": claim.owner_id,
        "asynch.lane_id": claim.lane_id,
        "asynch.waited_s": round(claim.waited_s, 3),
    }


def _lane(claim: Claim) -> str:
    """The lane as people know it."""
    return claim.model_name if claim.calls_model else claim.target.scheme.partition("+")[0]


def _request(method: str, url: str) -> dict[str, Value]:
    """Who is called, and nothing of what is asked: a path may be as secret as a query."""
    parts = urlsplit(url)
    return {
        "http.request.method": method,
        "server.address": parts.hostname or "",
        "server.port": parts.port or _PORTS.get(parts.scheme, 0),
    }
