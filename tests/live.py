"""The application behind a real HTTP server, in this process, and what tests say to it."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import requests
from werkzeug.routing import Rule
from werkzeug.serving import WSGIRequestHandler, make_server

from asynch import db, settings
from asynch.secretbox import SecretBox
from asynch.storage.local import LocalStorage
from asynch.web import Parts
from asynch.web.app import create_app

KEY = "A" * 43 + "="  #: a Fernet key like any other

MakeParts = Callable[..., Parts]

_compile_builder = Rule._compile_builder
_built: dict[tuple[str, bool], Any] = {}


def _once_compiled(rule: Rule, append_unknown: bool = True) -> Any:
    """The code that makes URLs of a route, which nothing here uses: to compile it anew was most of a test's set-up."""
    key = rule.rule, append_unknown
    if key not in _built:
        _built[key] = _compile_builder(rule, append_unknown)
    return _built[key]


Rule._compile_builder = _once_compiled  # type: ignore[method-assign]


@dataclass
class Live:
    """A running server; `call` makes a real request."""

    url: str
    parts: Parts
    session: requests.Session = field(default_factory=requests.Session)

    def call(self, method: str, path: str, body: Any = None, **options: Any) -> requests.Response:
        """Make a request; `body` is sent as JSON. Of a stream of events only the head is awaited."""
        if body is not None:
            options["json"] = body
        answer = self.session.request(
            method, self.url + path, timeout=options.pop("timeout", 30), allow_redirects=False, stream=True, **options
        )
        if answer.headers.get("Content-Type", "").startswith("text/event-stream"):
            answer.close()
        else:
            _ = answer.content
        return answer


class Quiet(WSGIRequestHandler):
    """Keeps connections, and says nothing of requests."""

    protocol_version = "HTTP/1.1"

    def log(self, type: str, message: str, *args: Any) -> None:
        """Say nothing."""


@contextmanager
def serving(parts: Parts, port: int = 0) -> Iterator[Live]:
    """Serve an application made of `parts` while the block runs, on a free port if none is given."""
    server = make_server("127.0.0.1", port, create_app(parts), threaded=True, request_handler=Quiet)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.005})
    thread.start()
    live = Live(f"http://127.0.0.1:{server.server_port}", parts)
    live.session.trust_env = False
    try:
        yield live
    finally:
        live.session.close()
        server.shutdown()
        thread.join()
        server.server_close()


def let_host_work(parts: Parts) -> None:
    """As if workers of the API's host had been heard of, and were not at the moment."""
    with db.connection(parts.pool) as conn:
        conn.execute("INSERT INTO asynch_host (id, name) VALUES (%s, 'tests')", (parts.uploads.incoming.host_id,))


def parts_on(pool: db.Pool, home: Path, **sections: Any) -> Parts:
    """Parts on a database and a directory; sections of the settings may be given."""
    chosen = settings.build({"data_dir": str(home), **sections})
    box = SecretBox([KEY])
    storage = LocalStorage(
        chosen.files_path,
        base_url="http://127.0.0.1",
        signing_key=box.signing_key("files"),
        url_ttl_s=3600,
    )
    return Parts(chosen, pool, box, storage)


@pytest.fixture
def make_parts(pool: db.Pool, tmp_path: Path) -> MakeParts:
    """Parts on this test's database and directory."""
    return partial(parts_on, pool, tmp_path)


@pytest.fixture
def live(make_parts: MakeParts) -> Iterator[Live]:
    """The application with auth mode none and default settings."""
    with serving(make_parts()) as running:
        yield running


@pytest.fixture
def working_host(live: Live) -> None:
    """See let_host_work."""
    let_host_work(live.parts)
