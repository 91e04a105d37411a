"""The demo's rules and its CDN: what is not signed is not believed, and a chain that did not end well is said to."""

from __future__ import annotations

import http.client
import json
import time
from collections.abc import Iterator, Mapping
from contextlib import closing
from io import StringIO
from pathlib import Path
from threading import Event
from typing import Any
from urllib.parse import urlsplit

import pytest
import requests
from rich.console import Console

from asynch.demo import films, rules
from asynch.demo.door import Refused
from asynch.demo.receiver import MAX_BODY_BYTES, Call, receiving
from asynch.domain import callbacks

SECRET = callbacks.new_secret()
BODY = b'{"type": "file.completed"}'
CALLS: list[Call] = []


@pytest.fixture
def cdn() -> Iterator[str]:
    """Its URL."""
    CALLS.clear()
    with receiving(SECRET, CALLS.append) as url:
        yield url


def post(url: str, body: bytes, headers: Mapping[str, str]) -> int:
    with requests.Session() as session:
        session.trust_env = False
        return session.post(url, body, headers=dict(headers), timeout=10).status_code


def test_the_cdn_hears_what_the_product_signs(cdn: str) -> None:
    signed = callbacks.signed([callbacks.new_secret(), SECRET], "msg_1", int(time.time()), BODY)

    assert post(cdn, BODY, signed) == 204
    (heard,) = CALLS
    assert heard == Call("msg_1", json.loads(BODY))


@pytest.mark.parametrize(
    ("secret", "ago_s", "body", "dropped"),
    [
        (callbacks.new_secret(), 0, BODY, ""),
        (SECRET, 301, BODY, ""),
        (SECRET, -301, BODY, ""),
        (SECRET, 0, BODY + b" ", ""),
        (SECRET, 0, BODY, "webhook-id"),
        (SECRET, 0, BODY, "webhook-timestamp"),
        (SECRET, 0, BODY, "webhook-signature"),
    ],
    ids=["another's", "old", "of the future", "altered", "no id", "no time", "no signature"],
)
def test_the_cdn_believes_nothing_else(cdn: str, secret: str, ago_s: int, body: bytes, dropped: str) -> None:
    signed = dict(callbacks.signed([secret], "msg_1", int(time.time()) - ago_s, BODY))
    signed.pop(dropped, None)

    assert post(cdn, body, signed) == 401
    assert CALLS == []


def test_the_cdn_takes_no_body_without_end(cdn: str) -> None:
    parts = urlsplit(cdn)
    with closing(http.client.HTTPConnection(parts.netloc, timeout=10)) as line:
        line.putrequest("POST", parts.path)
        line.putheader("Content-Length", str(MAX_BODY_BYTES + 1))
        line.endheaders()
        assert line.getresponse().status == 413


def film(**poster: Any) -> dict[str, Any]:
    """A film after its chain; what is said of the poster may be something else."""
    ended = {
        "status": "completed",
        "error": "",
        "created_at": "2026-01-01T00:00:00Z",
        "completed_at": "2026-01-01T00:00:01Z",
    }
    acts = [("web", "2"), ("poster", "3"), ("cdn", None)]
    actions = [{**ended, "name": name, "output": made and {"identity": made}} for name, made in acts]
    actions[1] |= poster
    derived = [{"identity": made, "ext": "x", "stored_size": 1} for _, made in acts if made]
    return {"identity": "1", "name": "film.mp4", "actions": actions, "derived": derived}


def call(file: str = "1", given: str = "3") -> Call:
    return Call("msg_1", {"data": {"file": {"identity": file}, "action": {"input": {"identity": given}}}})


def test_a_failed_action_ends_the_demo_with_its_reason() -> None:
    with pytest.raises(Refused, match=r"film\.mp4: poster failed: no frame"):
        rules.have_acted(film(status="failed", error="no frame"))


def test_a_whole_chain_is_one() -> None:
    assert rules.have_acted(film())
    assert not rules.have_acted(film(status="processing"))
    rules.check_chain(film(), [call()])


@pytest.mark.parametrize("calls", [[], [call(), call()], [call(file="9")], [call(given="2")]])
def test_a_cdn_that_heard_something_else_fails_the_demo(calls: list[Call]) -> None:
    with pytest.raises(Refused, match="the CDN heard something else"):
        rules.check_chain(film(), calls)


def test_a_chain_that_ended_early_fails_the_demo() -> None:
    broken = film()
    broken["actions"].pop()
    with pytest.raises(Refused, match="not the whole chain"):
        rules.check_chain(broken, [call()])


def test_a_demo_that_fails_says_so(tmp_path: Path) -> None:
    console = Console(file=StringIO(), width=200)

    assert films.run("http://127.0.0.1:9", tmp_path, tmp_path, console, Event()) == 1
    assert isinstance(console.file, StringIO)
    assert console.file.getvalue().startswith("demo failed: POST /webhook/rotateSecret: ")
