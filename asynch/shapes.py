"""Texts of the configuration that must have a shape: URLs, hosts, networks, zones, keys; none is resolved."""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Callable
from typing import Annotated, TypeVar
from urllib.parse import urlsplit
from zoneinfo import ZoneInfo

from pydantic import AfterValidator, SecretStr

from asynch.db import is_conninfo
from asynch.secretbox import is_key

_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,252}")
_HEADER_NAME = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")
_MIME = re.compile(r"[a-z0-9.+-]+/(\*|[A-Za-z0-9.+-]+)")
_BROKER = re.compile(r"[a-z][a-z0-9+.-]*://\S*")
_FIELD_PATH = re.compile(r"[^.\s]+(\.[^.\s]+)*")
_BITRATE = re.compile(r"[1-9][0-9]{0,3}k")

Text = TypeVar("Text", str, SecretStr)


def is_loopback(host: str) -> bool:
    """Whether `host` can be reached from this machine only: `localhost` or a loopback address."""
    if host.lower() == "localhost":
        return True
    if not _is_address(host):
        return False
    address = ipaddress.ip_address(host)
    return bool((getattr(address, "ipv4_mapped", None) or address).is_loopback)


def _is_address(text: str) -> bool:
    try:
        ipaddress.ip_address(text)
    except ValueError:
        return False
    return True


def _is_network(text: str) -> bool:
    try:
        ipaddress.ip_network(text, strict=False)
    except ValueError:
        return False
    return True


def _is_host(text: str) -> bool:
    return _is_address(text) or _NAME.fullmatch(text) is not None


def _is_web_url(text: str) -> bool:
    """http(s), a host, no password in it, no fragment; white space, which urlsplit forgives, is refused."""
    if re.search(r"[\s\\@#]", text):
        return False
    try:
        parts = urlsplit(text)
        return parts.scheme in ("http", "https") and _is_host(parts.hostname or "") and parts.port != 0
    except ValueError:
        return False


def _is_base_url(text: str) -> bool:
    return _is_web_url(text) and "?" not in text


def _is_origin(text: str) -> bool:
    return _is_web_url(text) and text.count("/") == 2 and "?" not in text


def _is_endpoint(text: str) -> bool:
    return _is_origin(f"http://{text}")


def _is_network_or_host(text: str) -> bool:
    return _is_network(text) or _is_host(text)


def _is_zone(text: str) -> bool:
    try:
        ZoneInfo(text)
    except (KeyError, ValueError, OSError):  # unknown; no name at all; the name of a directory of zones
        return False
    return True


def _is_header_value(text: str) -> bool:
    return text.isascii() and text.isprintable()


def _is_dsn(text: str) -> bool:
    """Whether libpq reads it as it was meant: what it cannot read it repeats in its complaint, passwords too."""
    return ("://" in text or "=" in text) and is_conninfo(text)


def _shape(fits: Callable[[str], object], expected: str, *, empty: bool = False) -> AfterValidator:
    """Check a text, plain or secret; the message never repeats it. `empty`: nothing at all is fine too."""

    def check(value: Text) -> Text:
        text = value.get_secret_value() if isinstance(value, SecretStr) else value
        if not fits(text) and not (empty and not text):
            raise ValueError(f"expected {expected}{', or nothing' if empty else ''}")
        return value

    return AfterValidator(check)


def _without_slash(text: str) -> str:
    return text.rstrip("/")


_URL = "a http:// or https:// URL without user, password or fragment"
_BASE_URL = "a http:// or https:// URL without user, password, query or fragment"
_DSN = "postgresql://... (in a password, / @ : ? # and % are written as %2F %40 %3A %3F %23 %25) or key=value pairs"
_FERNET = "a Fernet key: 32 random bytes as URL-safe base64, 44 characters"

Host = Annotated[str, _shape(_is_host, "a host name or an address without brackets")]
OptionalUrl = Annotated[str, _shape(_is_web_url, _URL, empty=True)]
OptionalBaseUrl = Annotated[str, _shape(_is_base_url, _BASE_URL, empty=True), AfterValidator(_without_slash)]
Origin = Annotated[str, _shape(_is_origin, "an origin such as https://app.example.com")]
OptionalEndpoint = Annotated[str, _shape(_is_endpoint, "host:port without a scheme", empty=True)]
Network = Annotated[str, _shape(_is_network, "an address or a network such as 10.0.0.0/8")]
NetworkOrHost = Annotated[str, _shape(_is_network_or_host, "a network such as 10.0.0.0/8 or a host")]
Zone = Annotated[str, _shape(_is_zone, "a name of the tz database such as Europe/Berlin")]
MimePattern = Annotated[str, _shape(_MIME.fullmatch, "a media type such as image/* or text/plain")]
Bitrate = Annotated[str, _shape(_BITRATE.fullmatch, "kilobits a second such as 128k")]
FieldPath = Annotated[str, _shape(_FIELD_PATH.fullmatch, "names joined by dots such as data.fileUrl")]
HeaderName = Annotated[str, _shape(_HEADER_NAME.fullmatch, "a header name")]

SecretHeaderValue = Annotated[SecretStr, _shape(_is_header_value, "one line of printable ASCII")]
SecretKey = Annotated[SecretStr, _shape(is_key, _FERNET)]
SecretDsn = Annotated[SecretStr, _shape(_is_dsn, _DSN, empty=True)]
SecretBrokerUrl = Annotated[SecretStr, _shape(_BROKER.fullmatch, "a URL such as amqp://host/", empty=True)]
