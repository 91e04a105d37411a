"""Callbacks as Standard Webhooks 1.0.0 has them: the messages' names, and how they are signed."""

from __future__ import annotations

import base64
import hashlib
import hmac
import secrets
from collections.abc import Iterable, Mapping
from enum import StrEnum
from urllib.parse import urlsplit, urlunsplit

#: under which name secrets are sealed
FIELD = "webhook_secret"
#: How a secret begins; what follows is base64 of its bytes.
PREFIX = "whsec_"
_SECRET_BYTES = 32
MAX_URL = 2048
#: Pauses between attempts, seconds: 28 hours in all.
SCHEDULE_S = (5, 300, 1800, 7200, 18000, 36000, 36000)
#: How long a receiver may take for the whole of its answer, seconds.
TIMEOUT_S = 15
#: How many deliveries to one receiver may be under way at once.
AT_ONCE = 8
#: What a lane of deliveries is called, before its receiver.
LANE = "webhook:"
_PORTS = {"http": 80, "https": 443}


class Event(StrEnum):
    """`type` of a message."""

    COMPLETED = "task.completed"
    FAILED = "task.failed"
    CANCELLED = "task.cancelled"
    EXPIRING = "task.expiring"  #: the task is about to be deleted
    TEST = "webhook.test"  #: an admin wants to see whether anything arrives


def new_secret() -> str:
    """A secret that nobody has had before."""
    return PREFIX + base64.b64encode(secrets.token_bytes(_SECRET_BYTES)).decode()


def signed(keys: Iterable[str], message_id: str, timestamp: int, body: bytes) -> Mapping[str, str]:
    """The three headers; with more than one secret as many signatures, of which a receiver needs to know one.

    `timestamp` is when this attempt is made, seconds since 1970.
    """
    text = f"{message_id}.{timestamp}.".encode() + body
    signatures = (f"v1,{_signature(key, text)}" for key in keys)
    return {
        "webhook-id": message_id,
        "webhook-timestamp": str(timestamp),
        "webhook-signature": " ".join(signatures),
    }


def _signature(key: str, text: bytes) -> str:
    secret = base64.b64decode(key.removeprefix(PREFIX))
    return base64.b64encode(hmac.digest(secret, text, hashlib.sha256)).decode()


#: what `cleaned` asks for, as far as a pattern can say it
URL_PATTERN = r"^[Hh][Tt]{2}[Pp][Ss]?://[^/?#:@\\\s][!-\[\]-~]*$"


def cleaned(url: str) -> str:
    """A receiver's URL without its fragment. ValueError for one that cannot be called."""
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError as exc:
        raise ValueError("expected an http:// or https:// URL") from exc
    if parts.scheme not in _PORTS or not parts.hostname or port == 0:
        raise ValueError("expected an http:// or https:// URL")
    if "@" in parts.netloc:
        raise ValueError("expected a URL without user and password")
    if not url.isascii() or not url.isprintable() or " " in url or "\\" in url:
        raise ValueError("expected a URL of printable ASCII characters, others as %XX")
    return urlunsplit(parts._replace(fragment=""))


def receiver_of(url: str) -> str:
    """The origin of a cleaned URL, by which deliveries are kept apart: one slow receiver delays nobody else."""
    parts = urlsplit(url)
    host = (parts.hostname or "").rstrip(".")
    port = parts.port or _PORTS[parts.scheme]
    shown = f"[{host}]" if ":" in host else host
    return f"{parts.scheme}://{shown}:{port}"
