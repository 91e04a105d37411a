"""The HTTP backend: each file goes to an upload service, whose answer names its URL; no header leaves in an error."""

from __future__ import annotations

import json
from collections.abc import Generator, Iterator, Mapping
from contextlib import closing, contextmanager
from io import SEEK_END, BytesIO
from pathlib import Path
from time import monotonic
from typing import Any, BinaryIO
from urllib.parse import urlencode, urljoin, urlsplit
from uuid import uuid4

import requests
from requests.adapters import HTTPAdapter
from requests.structures import CaseInsensitiveDict
from urllib3.exceptions import HTTPError

from asynch.errors import StorageError

#: Connect, and silence. The first is also how long the service may pause while it takes a body, the second how long it
#: may work on one before it answers: many store the file elsewhere in that time.
_TIMEOUT_S = (10.0, 120.0)
#: how long an answer may take from its first byte to its last
_ANSWER_S = 30.0
_ANSWER_MAX = 1 << 16
_BLOCK = 1 << 18
#: kept open at most; more threads than these still get a connection, but a new one each time
_CONNECTIONS = 32

#: so often the URL of a file may lead elsewhere
_HOPS = 5
_OK = 200
_UNAUTHORIZED = 401
_MISSING = frozenset({404, 410})
_PROBE = b"asynch"


class HttpStorage:
    """An upload service, asked with one multipart POST a file; an address is the URL it answered with.

    `url_field` is the dotted path to that URL in the answer, or in the answer's `data`. Without `delete_url` nothing is
    ever deleted.
    """

    def __init__(self, *, upload_url: str, url_field: str, headers: Mapping[str, str], delete_url: str) -> None:
        self._upload_url = upload_url
        self._fields = (url_field, f"data.{url_field}")
        self._headers = dict(headers)
        self._delete_url = delete_url
        # No session: it would keep one creator's cookies for the next, read ~/.netrc, and follow a redirect with the
        # creator's headers.
        self._adapter = HTTPAdapter(pool_maxsize=_CONNECTIONS)
        self._proved = False  #: whether a probe was written, where probes stay for ever

    def put(self, key: str, path: Path, content_type: str, *, sender: Mapping[str, str] | None = None) -> str:
        """Upload the file under the last part of its key; FileNotFoundError passes if `path` is gone.

        The sender's headers go along where there are any, and the configured ones where there are none or the service
        answers those with 401.
        """
        with path.open("rb") as source, _wrapped(f"put {key}"):
            return self._put(key.rpartition("/")[2], source, content_type, sender)

    def url(self, address: str, *, filename: str, content_type: str) -> str:  # noqa: ARG002 -- the service decides
        """The address: permanent, and what the service says of name and type."""
        return address

    def fetch(self, address: str, path: Path) -> None:
        """Stream what the URL gives, wherever it leads, into the file."""
        with path.open("xb") as target, closing(_blocks(self._opened(address))) as blocks:
            while True:
                with _wrapped("fetch"):
                    block = next(blocks, b"")
                if not block:
                    return
                target.write(block)

    def _opened(self, address: str) -> requests.Response:
        """The answer to a GET, its body still to be read."""
        with _wrapped("fetch"):
            for _ in range(_HOPS):
                answer = self._answer("GET", address, self._trusted(address))
                if not (answer.is_redirect and _is_url(address := urljoin(address, answer.headers["Location"]))):
                    break
                answer.close()
            if answer.status_code != _OK:
                answer.close()
                raise StorageError(f"HTTP {answer.status_code}")
            return answer

    def delete(self, address: str) -> None:
        """Ask the service to remove the file: DELETE, with the URL as `url` in the query."""
        if not self._delete_url or not _is_url(address):
            return
        joint = "&" if "?" in self._delete_url else "?"
        with _wrapped("delete"):
            status, _ = self._send("DELETE", f"{self._delete_url}{joint}{urlencode({'url': address})}", self._headers)
            if status not in _MISSING:
                _expect_success(status)

    def exists(self, address: str) -> bool:
        """Whether the URL answers; one that leads elsewhere does."""
        if not _is_url(address):
            return False
        with _wrapped("look"):
            status, _ = self._fetch(address)
            if status in _MISSING:
                return False
            if status >= 400:
                raise StorageError(f"HTTP {status}")
        return True

    def sweep(self, older_than_s: float) -> int:  # noqa: ARG002 -- the protocol's
        """Nothing: what an upload that broke off left behind is the service's own."""
        return 0

    def check(self) -> str:
        """Write, read and delete a small object; where nothing can be deleted write one once, later only ask."""
        with _wrapped("check"):
            if self._proved:
                status, _ = self._send("OPTIONS", self._upload_url, self._headers)
                if status >= 500:
                    raise StorageError(f"HTTP {status}")
                return "the service answers"
            if not self._delete_url:
                self._try_out("asynch-check.txt")
                self._proved = True
                return "wrote and read an object, which stays: storage.http.delete_url is empty"
            self.delete(self._try_out(f"check-{uuid4().hex}.txt"))
        return "wrote, read and deleted an object"

    def _try_out(self, name: str) -> str:
        address = self._put(name, BytesIO(_PROBE), "text/plain", None)
        status, body = self._fetch(address)
        if status >= 400:
            raise StorageError(f"the URL of what was just written answers HTTP {status}")
        if status < 300 and body != _PROBE:
            raise StorageError("the service gives back other bytes than were written")
        return address

    def _put(self, name: str, source: BinaryIO, content_type: str, sender: Mapping[str, str] | None) -> str:
        form = _Form(source, name, content_type)
        status, body = self._send("POST", self._upload_url, sender or self._headers, form)
        if status == _UNAUTHORIZED and sender and self._headers:
            status, body = self._send("POST", self._upload_url, self._headers, form)
        _expect_success(status)
        return _address(body, self._fields)

    def _fetch(self, address: str) -> tuple[int, bytes]:
        """What the URL answers."""
        return self._send("GET", address, self._trusted(address))

    def _trusted(self, address: str) -> Mapping[str, str]:
        """Our headers are for the upload service alone."""
        return self._headers if urlsplit(address)[:2] == urlsplit(self._upload_url)[:2] else {}

    def _send(self, method: str, url: str, headers: Mapping[str, str], form: _Form | None = None) -> tuple[int, bytes]:
        """One request: the status, and the body of a success as far as it is of interest."""
        with closing(self._answer(method, url, headers, form)) as answer:
            return answer.status_code, _body(answer.raw) if 200 <= answer.status_code < 300 else b""

    def _answer(
        self, method: str, url: str, headers: Mapping[str, str], form: _Form | None = None
    ) -> requests.Response:
        sent = CaseInsensitiveDict({"User-Agent": "asynch", **headers, "Accept-Encoding": "identity"})
        if form is not None:
            sent["Content-Type"] = form.content_type
        request = requests.Request(method, url, headers=sent, data=form).prepare()
        return self._adapter.send(request, stream=True, timeout=_TIMEOUT_S)


class _Form:
    """A multipart body (RFC 7578) of one file, read a block at a time and from its beginning each time it is sent."""

    def __init__(self, source: BinaryIO, name: str, content_type: str) -> None:
        mark = uuid4().hex
        self.content_type = f"multipart/form-data; boundary={mark}"
        disposition = f'form-data; name="file"; filename="{name}"'
        self._head = f"--{mark}\r\nContent-Disposition: {disposition}\r\nContent-Type: {content_type}\r\n\r\n".encode()
        self._source = source
        self._tail = f"\r\n--{mark}--\r\n".encode()
        self._size = len(self._head) + source.seek(0, SEEK_END) + len(self._tail)

    def __len__(self) -> int:
        return self._size

    def __iter__(self) -> Iterator[bytes]:
        self._source.seek(0)
        yield self._head
        while block := self._source.read(_BLOCK):
            yield block
        yield self._tail


def _blocks(answer: requests.Response) -> Generator[bytes, None, None]:
    with answer:
        yield from answer.iter_content(_BLOCK)


def _body(raw: Any) -> bytes:
    """At most a little more than an answer may have."""
    body, end = b"", monotonic() + _ANSWER_S
    while len(body) <= _ANSWER_MAX and (block := raw.read1(_ANSWER_MAX, decode_content=True)):
        body += block
        if monotonic() >= end:
            raise StorageError("the answer takes too long")
    return body


def _expect_success(status: int) -> None:
    """Not a word of the body: the service may repeat there what it was sent."""
    if not 200 <= status < 300:
        raise StorageError(f"the service answered HTTP {status}")


def _address(body: bytes, fields: tuple[str, ...]) -> str:
    """The URL in the first of these fields that holds a text."""
    if len(body) > _ANSWER_MAX:
        raise StorageError(f"the service's answer is larger than {_ANSWER_MAX} bytes")
    try:
        answer = json.loads(body)
    except (ValueError, RecursionError):
        raise StorageError("the service's answer is not JSON") from None
    for field in fields:
        found = _follow(answer, field)
        if isinstance(found, str) and found:
            if not _is_url(found):
                raise StorageError(f"{field} of the service's answer is not an http:// or https:// URL")
            return found
    raise StorageError(f"the service's answer has no {' or '.join(fields)}")


def _follow(value: Any, path: str) -> Any:
    for step in path.split("."):
        if isinstance(value, dict):
            value = value.get(step)
        elif isinstance(value, list) and step.isdecimal() and int(step) < len(value):
            value = value[int(step)]
        else:
            return None
    return value


def _is_url(text: str) -> bool:
    """Whether it can be given to clients; a key is none."""
    try:
        parts = urlsplit(text)
        return parts.scheme in ("http", "https") and bool(parts.hostname) and text.isprintable() and " " not in text
    except ValueError:
        return False


@contextmanager
def _wrapped(action: str) -> Iterator[None]:
    """Turn what requests and all below it raise into StorageError; not chained, their texts hold URLs and headers."""
    try:
        yield
    except StorageError as exc:
        raise StorageError(f"{action}: {exc}") from None
    except (requests.RequestException, HTTPError, OSError, ValueError) as exc:
        raise StorageError(f"{action}: {_reason(exc)}") from None


def _reason(exc: BaseException) -> str:
    if isinstance(exc, requests.Timeout):
        return "the service did not answer in time"
    cause = _first_cause(exc)
    return (isinstance(cause, OSError) and cause.strerror) or type(cause).__name__


def _first_cause(exc: BaseException) -> BaseException:
    for inner in (getattr(exc, "reason", None), *exc.args, exc.__cause__):
        if isinstance(inner, BaseException):
            return _first_cause(inner)
    return exc
