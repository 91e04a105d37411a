"""Spans on their way to an OpenTelemetry collector (OTLP/HTTP, protobuf); it never waits for one where work is done.

The exporter is ours: the SDK's own takes headers, certificates and credential plug-ins out of OTEL_* variables, and
logs at every try. Nothing is global: no provider is set, so that libraries which trace themselves stay silent.
"""

from __future__ import annotations

import logging
import os
import socket
import ssl
import threading
import uuid
from collections.abc import Callable, Mapping, Sequence
from importlib.metadata import version
from time import monotonic, time_ns
from typing import Any, cast

import certifi
import urllib3
from opentelemetry.context import Context
from opentelemetry.exporter.otlp.proto.common.trace_encoder import encode_spans
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import ReadableSpan, SpanLimits, TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor, SpanExportResult
from opentelemetry.sdk.trace.sampling import ALWAYS_ON, ParentBased
from opentelemetry.trace import Span, SpanKind, Status, StatusCode, set_span_in_context
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

from asynch.domain import tracing

logger = logging.getLogger(__name__)

_PATH = "/v1/traces"
_QUEUE = 8192
_BATCH = 512
_PAUSE_S = 1.0
#: of one request to the collector, connecting included
_PATIENCE_S = 5.0
#: before a batch that was not taken is offered for the second and last time
_BACKOFF_S = 1.0
_FLUSH_S = 2.0
_COMPLAIN_S = 60.0
#: what OTLP says may be sent again
_AGAIN = frozenset({429, 502, 503, 504})
_KINDS = {
    "server": SpanKind.SERVER,
    "consumer": SpanKind.CONSUMER,
    "client": SpanKind.CLIENT,
    "internal": SpanKind.INTERNAL,
}
_W3C = TraceContextTextMapPropagator()


class OtlpTracer:
    """One a process, made after the fork: a queue with an end, and a thread that empties it."""

    def __init__(self, endpoint: str, *, service: str) -> None:
        """`endpoint` is the collector's base URL, or the whole one that ends in /v1/traces."""
        host, pid = socket.gethostname(), os.getpid()
        _hear_the_sdk()
        self._exporter = _Exporter(endpoint if endpoint.endswith(_PATH) else f"{endpoint}{_PATH}")
        # Every value is given: the SDK looks into the environment for what is not.
        self._provider = TracerProvider(
            sampler=ParentBased(ALWAYS_ON),
            resource=Resource(
                {
                    "service.name": service,
                    "service.version": version("asynch"),
                    "service.instance.id": str(uuid.uuid4()),
                    "host.name": host,
                    "process.pid": pid,
                }
            ),
            shutdown_on_exit=False,
            span_limits=_limits(),
        )
        self._provider.add_span_processor(
            BatchSpanProcessor(
                cast(Any, self._exporter),  # not derived from the SDK's class: types are checked without it too
                max_queue_size=_QUEUE,
                schedule_delay_millis=_PAUSE_S * 1000,
                max_export_batch_size=_BATCH,
                export_timeout_millis=_PATIENCE_S * 1000,
            )
        )
        self._tracer = self._provider.get_tracer("asynch", version("asynch"))

    def start(
        self,
        name: str,
        kind: str,
        *,
        under: str,
        ago_s: float = 0.0,
        attributes: Callable[[], Mapping[str, str | int | float]] = dict,
    ) -> OtlpSpan:
        """As `spans.Tracer.start`."""
        parent = _W3C.extract(tracing.headers(under), Context())
        span = self._tracer.start_span(name, parent, _KINDS[kind], attributes(), start_time=_at(ago_s))
        return OtlpSpan(span)

    def close(self) -> None:
        """As `spans.Tracer.close`; what is not sent by then is lost."""
        self._exporter.closing.set()
        flush = threading.Thread(target=self._provider.shutdown, name="flush-spans", daemon=True)
        flush.start()
        flush.join(_FLUSH_S)


class OtlpSpan:
    """A span of the SDK; one that is not sampled has a context all the same."""

    def __init__(self, span: Span) -> None:
        self._span = span
        carrier: dict[str, str] = {}
        _W3C.inject(carrier, set_span_in_context(span, Context()))
        self.context = tracing.packed(carrier.get("traceparent"), carrier.get("tracestate"))

    def note(self, name: str, value: str | int | float) -> None:
        """As `spans.Span.note`."""
        if self._span.is_recording():
            self._span.set_attribute(name, value)

    def fail(self, code: str) -> None:
        """As `spans.Span.fail`."""
        if self._span.is_recording():
            self._span.set_attribute("error.type", code)
            self._span.set_status(Status(StatusCode.ERROR, code))

    def end(self, ago_s: float = 0.0) -> None:
        """As `spans.Span.end`."""
        if self._span.is_recording():
            self._span.end(_at(ago_s))


class _Exporter:
    """Posts a batch, once more where that may help, and gives it up then."""

    def __init__(self, url: str) -> None:
        self.closing = threading.Event()
        trust = ssl.create_default_context(cafile=certifi.where())
        trust.load_default_certs()
        # No proxy: urllib3 knows none by itself. No retry of its own either: it would log each.
        self._http = urllib3.PoolManager(
            1, ssl_context=trust, retries=False, timeout=urllib3.Timeout(total=_PATIENCE_S)
        )
        self._url = url

    def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:
        body: bytes = encode_spans(spans).SerializeToString()
        why, again = self._post(body)
        if why and again and not self.closing.wait(_BACKOFF_S):
            why, _ = self._post(body)
        if why:
            _complain(f"spans are lost: the collector at tracing.otlp_endpoint {why}")
        return SpanExportResult.FAILURE if why else SpanExportResult.SUCCESS

    def _post(self, body: bytes) -> tuple[str, bool]:
        """Why the collector did not take it, empty where it did, and whether it may later."""
        try:
            answer = self._http.request(
                "POST", self._url, body=body, headers={"Content-Type": "application/x-protobuf"}, redirect=False
            )
        except (urllib3.exceptions.HTTPError, OSError) as exc:
            return f"does not answer ({type(exc).__name__})", True
        if 200 <= answer.status < 300:
            return "", False
        return f"answers {answer.status}", answer.status in _AGAIN

    def shutdown(self) -> None:
        self._http.clear()

    def force_flush(self, timeout_millis: int = 30_000) -> bool:  # noqa: ARG002 - the SDK's signature
        return True


class _Rarely(logging.Handler):
    """Says of the SDK's own complaints, such as that of a full queue, no more than `_complain` does."""

    def emit(self, record: logging.LogRecord) -> None:
        _complain(f"spans may be lost: {record.getMessage()}")


_saying = threading.Lock()
_said_at = float("-inf")


def _complain(text: str) -> None:
    """One warning a minute: whatever is wrong, it is the same for every batch."""
    global _said_at
    with _saying:
        now = monotonic()
        if now - _said_at < _COMPLAIN_S:
            return
        _said_at = now
    logger.warning(text)


def _hear_the_sdk() -> None:
    theirs = logging.getLogger("opentelemetry")
    theirs.propagate = False
    theirs.handlers = [_Rarely(logging.WARNING)]


def _limits() -> SpanLimits:
    most = 64
    return SpanLimits(
        max_attributes=most,
        max_events=most,
        max_links=most,
        max_span_attributes=most,
        max_event_attributes=most,
        max_link_attributes=most,
        max_attribute_length=512,
        max_span_attribute_length=512,
    )


def _at(ago_s: float) -> int:
    return time_ns() - int(ago_s * 1e9)
