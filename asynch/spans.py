"""What a process tells of its own work as spans of a trace, in words of ours; whether they go anywhere is a setting."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Literal, Protocol

from asynch.errors import UserError

Kind = Literal["server", "consumer", "client", "internal"]
Value = str | int | float


def _none() -> Mapping[str, Value]:
    return {}


class Span(Protocol):
    """One piece of work that takes a while. Any thread may call it."""

    @property
    def context(self) -> str:
        """What the work that hangs under this one is told, packed as in `domain.tracing`."""

    def note(self, name: str, value: Value) -> None:
        """Set an attribute: never a payload, a header, a query string or anything made of them."""

    def fail(self, code: str) -> None:
        """It failed; `code` is all that is told of why."""

    def end(self, ago_s: float = 0.0) -> None:
        """It is over, or was so long ago; only the first call counts."""


class Tracer(Protocol):
    """Where the spans of a process begin, and how they get out."""

    def start(
        self,
        name: str,
        kind: Kind,
        *,
        under: str,
        ago_s: float = 0.0,
        attributes: Callable[[], Mapping[str, Value]] = _none,
    ) -> Span:
        """Begin a span, now or so long ago, under a packed context; a trace of its own where that is empty.

        Its attributes are asked for only where somebody hears of them.
        """

    def close(self) -> None:
        """Send what is left, for two seconds at most."""


@dataclass(frozen=True, slots=True)
class Untold:
    """A span that nobody hears of: what hangs under it hangs under the one above it."""

    context: str = ""

    def note(self, name: str, value: Value) -> None:
        """Nothing."""

    def fail(self, code: str) -> None:
        """Nothing."""

    def end(self, ago_s: float = 0.0) -> None:
        """Nothing."""


class Off:
    """The tracer of a process that tells nothing."""

    def start(
        self,
        name: str,  # noqa: ARG002 - the protocol's signature
        kind: Kind,  # noqa: ARG002
        *,
        under: str,
        ago_s: float = 0.0,  # noqa: ARG002
        attributes: Callable[[], Mapping[str, Value]] = _none,  # noqa: ARG002
    ) -> Span:
        return Untold(under)

    def close(self) -> None:
        """Nothing is left."""


OFF = Off()


def check(endpoint: str) -> None:
    """UserError when spans are to be sent to this collector and cannot be, for want of the optional packages."""
    if not endpoint:
        return
    try:
        import asynch.otlp  # noqa: F401 - off costs nothing: the packages are loaded only here and below
    except ImportError as exc:
        raise UserError(
            f"tracing.otlp_endpoint is set, but the extra 'tracing' is not installed ({exc.name or exc}): "
            "pip install 'asynch[tracing]', or leave the key empty"
        ) from exc


def open_tracer(endpoint: str, *, service: str) -> Tracer:
    """The tracer of this process, made after any fork; off where `endpoint` is empty. UserError as `check`."""
    check(endpoint)
    if not endpoint:
        return OFF
    from asynch.otlp import OtlpTracer

    return OtlpTracer(endpoint, service=service)
