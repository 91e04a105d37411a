"""A model's URL and bound headers, checked and joined; refuses what would bend the request itself."""

from __future__ import annotations

import re
from collections.abc import Iterator
from functools import lru_cache
from ipaddress import IPv6Address
from urllib.parse import unquote, urlsplit, urlunsplit

MAX_BINDINGS = 1024
MAX_BASE_URL = 256
#: what their checks ask for, as far as a pattern can say it
URL_PATTERN = (
    r"^[Hh][Tt]{2}[Pp][Ss]?://([A-Za-z0-9_-]{1,63}(\.[A-Za-z0-9_-]{1,63})*\.?|\[[0-9A-Fa-f:.]+\])"
    r"(:[0-9]*)?([/?][^\s\\#]*)?$"
)
BINDINGS_PATTERN = (
    r"^ *$|^[ -~\u00a0-\u00ff]+[:=][ -~\u00a0-\u00ff\u2022]+$"  # U+2022: of the mask, which may be sent back
)

_TOKEN = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")  # RFC 9110, 5.6.2
_SENDABLE = re.compile(r"[\x20-\x7e\xa0-\xff]*")  # latin-1 without either block of control characters
_COMMA_OUTSIDE_QUOTES = re.compile(r',(?=(?:[^"]*"[^"]*")*[^"]*$)')
_SEPARATOR = re.compile(r"[:=]")
_ABSOLUTE = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*:/")
_HOST_LABELS = re.compile(r"[\w-]{1,63}(?:\.[\w-]{1,63})*\.?", re.ASCII)

#: hop-by-hop and framing headers (RFC 9110, 7.6.1 and 8.6) belong to the connection, the last is asynch's own
_RESERVED = frozenset(
    {
        *("host", "content-length", "transfer-encoding", "connection", "keep-alive", "te", "trailer"),
        *("trailers", "upgrade", "http2-settings", "expect", "idempotency-key"),
    }
)
_RESERVED_PREFIXES = ("proxy-", "x-asynch-")

_HIDDEN = "••••"
_SHOWN_END = 4
_SHOWN_FROM_LENGTH = 12


def parse(text: str) -> dict[str, str]:
    """Return the headers bound by `Key:Value,Key2:"Value2"`, in order; blank text binds none.

    Of names equal but for case the last wins. Raises ValueError for anything else than the grammar of the
    contract; its text names headers and never shows a value.
    """
    if len(text) > MAX_BINDINGS:
        raise ValueError(f"header bindings are longer than {MAX_BINDINGS} characters")
    if not _SENDABLE.fullmatch(text):
        raise ValueError("header bindings hold a character that no HTTP header can carry")
    bound: dict[str, tuple[str, str]] = {}
    for name, value in _bindings(text):
        bound.pop(name.lower(), None)
        bound[name.lower()] = (name, value)
    return dict(bound.values())


def mask(text: str) -> str:
    """Return `text` for showing: names stay, values are hidden but for the end of long ones.

    The same text always gives the same mask, and `parse` refuses it: "the answered mask was sent back" is an
    equality, to be asked before parsing. Text that cannot be parsed is hidden whole.
    """
    try:
        bound = parse(text)
    except ValueError:
        return _HIDDEN
    return ",".join(f"{name}:{_HIDDEN}{_shown_end(value)}" for name, value in bound.items())


def check_base_url(url: str) -> None:
    """Raise ValueError unless `url` may be a model's baseUrl; where it leads is egress's matter."""
    if len(url) > MAX_BASE_URL:
        raise ValueError(f"longer than {MAX_BASE_URL} characters")
    _check_characters(url)
    parts = urlsplit(url)
    if parts.scheme not in ("http", "https"):
        raise ValueError("must begin with http:// or https://")
    if "@" in parts.netloc:
        raise ValueError("must not hold a user name or password; bind an Authorization header instead")
    if parts.port == 0:
        raise ValueError("port 0 cannot be called")
    _check_host(parts.hostname or "", bracketed="[" in parts.netloc)


@lru_cache(1024)
def join(base_url: str, route: str) -> str:
    """Return the URL to call: `base_url`, and with a route '/' + route, exactly one '/' between them.

    A query of either is kept, the base's first. Raises ValueError for a route that could leave the base.
    """
    if not route:
        return base_url
    _check_characters(route)
    path, _, query = route.partition("?")
    _check_route_path(path)
    base = urlsplit(base_url)
    joined = base.path.removesuffix("/") + "/" + path.removeprefix("/")
    return urlunsplit((base.scheme, base.netloc, joined, "&".join(filter(None, (base.query, query))), ""))


def _bindings(text: str) -> Iterator[tuple[str, str]]:
    if text.count('"') % 2:
        raise ValueError("a double quote is never closed")
    if not text.strip():
        return
    for number, item in enumerate(_COMMA_OUTSIDE_QUOTES.split(text), start=1):
        name, *rest = _SEPARATOR.split(item, maxsplit=1)
        if not rest:
            raise ValueError(f"binding {number} has no ':' or '=' between name and value")
        yield _name(name.strip(), number), _value(rest[0].strip(), number)


def _name(name: str, number: int) -> str:
    if not _TOKEN.fullmatch(name):
        raise ValueError(f"binding {number} has no valid header name")
    if name.lower() in _RESERVED or name.lower().startswith(_RESERVED_PREFIXES):
        raise ValueError(f"header {name} cannot be bound: it is set by the connection or by asynch")
    return name


def _value(value: str, number: int) -> str:
    if value.startswith('"'):
        inner, after = value[1:].split('"', maxsplit=1)
        if after:
            raise ValueError(f"binding {number} goes on after its closing quote")
        value = inner.strip()  # white space at the ends is no part of a header's value (RFC 9110, 5.5)
    if not value:
        raise ValueError(f"binding {number} has an empty value")
    return value


def _shown_end(value: str) -> str:
    return value[-_SHOWN_END:] if len(value) >= _SHOWN_FROM_LENGTH else ""


def _check_characters(url: str) -> None:
    # not isprintable() covers control characters, line ends of every script and invisible marks
    if not url.isprintable() or " " in url or "\\" in url:
        raise ValueError("holds white space, a control character or a backslash")
    if "#" in url:
        raise ValueError("must not have a fragment")


def _check_host(host: str, *, bracketed: bool) -> None:
    if bracketed:
        if "%" in host:
            raise ValueError("an address with a zone cannot be called")
        IPv6Address(host)
        return
    if not _HOST_LABELS.fullmatch(host):
        raise ValueError("has no valid host; an international name is written in its xn-- form")


def _check_route_path(path: str) -> None:
    if "//" in path or _ABSOLUTE.match(path):
        raise ValueError("a route must be relative to baseUrl and without '//'")
    # some servers decode before they resolve, so an encoded slash or dot counts as one
    if ".." in re.split(r"[/\\]", unquote(path)):
        raise ValueError("a route must not hold '..'")
