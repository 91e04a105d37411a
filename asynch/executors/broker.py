"""One attempt to publish a message: handed to the broker and confirmed by it, or not published."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, BinaryIO
from urllib.parse import urlsplit

from asynch.errors import ErrorCode, ExecutorError, UserError
from asynch.executors import Call, Done, Order

if TYPE_CHECKING:
    from kombu import Connection

#: How long reaching the broker may take, seconds.
_CONNECT_S = 5.0
_NOT_FOUND = 404
_PERSISTENT = 2


def check(url: str) -> None:
    """UserError when there is a broker of a kind that is not known, or no package to reach it with."""
    if not url:
        return
    try:
        import kombu  # an extra, and slow to load for those who have no broker
    except ImportError as exc:
        raise UserError(
            f"broker.url is set, but the extra 'broker' is not installed ({exc.name or exc}): "
            "pip install 'asynch[broker]', or leave the key empty"
        ) from exc
    try:
        _ = kombu.Connection(url).transport
    except Exception as exc:  # each transport fails in its own way where its library is missing
        raise UserError(f"broker.url: {urlsplit(url).scheme}:// cannot be reached from here: {exc.args[0]}") from exc


def greet(url: str) -> str:
    """What kind of broker answers at this URL. UserError as `check`, ExecutorError when none does."""
    check(url)
    with _connected(url) as connection:
        return str(connection.transport.driver_name)


class BrokerExecutor:
    """Publishes to queues of one broker; a connection for each message, so that none is stale."""

    def __init__(self, url: str) -> None:
        check(url)
        self._url = url

    def run(self, order: Order, out: BinaryIO, call: Call) -> Done:  # noqa: ARG002 - there is no result
        """Publish the payload to the queue of the topic that is the order's input. ExecutorError, always transient."""
        from kombu import Producer

        topic = order.input_ref or ""
        with _connected(self._url) as connection:
            _ensure_queue(connection, topic)
            call.check()
            Producer(connection.channel(), auto_declare=False).publish(
                (order.payload or "").encode(),
                exchange="",
                routing_key=topic,
                mandatory=True,  # a queue that was deleted just now does not swallow it
                delivery_mode=_PERSISTENT,
                content_type="application/json",
                content_encoding="utf-8",
                message_id=order.idempotency_key,
                timeout=order.timeout_s,
                confirm_timeout=order.timeout_s,
            )
        return Done()


@contextmanager
def _connected(url: str) -> Iterator[Connection]:
    from amqp.exceptions import MessageNacked
    from kombu import Connection
    from kombu.exceptions import KombuError

    connection = Connection(url, connect_timeout=_CONNECT_S, transport_options={"confirm_publish": True})
    try:
        try:
            connection.connect()
            yield connection
        finally:
            connection.release()
    except MessageNacked as exc:  # in none of the library's families of errors
        detail = "the broker did not take the message: its queue may be full"
        raise ExecutorError(ErrorCode.MODEL_CONNECTION, detail, transient=True) from exc
    except (KombuError, *connection.connection_errors, *connection.channel_errors) as exc:
        raise ExecutorError(ErrorCode.MODEL_CONNECTION, f"the broker: {_said(exc, url)}", transient=True) from exc


def _said(exc: Exception, url: str) -> str:
    """What the library says, which may repeat where it went, without the secret in it."""
    text = str(exc) or type(exc).__name__
    password = urlsplit(url).password
    return text.replace(url, "broker.url").replace(password, "***") if password else text.replace(url, "broker.url")


def _ensure_queue(connection: Connection, topic: str) -> None:
    """A durable queue, unless there is one already, whatever its owner has made it to be."""
    with connection.channel() as channel:
        try:
            channel.queue_declare(topic, passive=True)
            return
        except connection.channel_errors as exc:
            if getattr(exc, "code", _NOT_FOUND) != _NOT_FOUND:
                raise
    with connection.channel() as channel:
        channel.queue_declare(topic, durable=True, auto_delete=False)
