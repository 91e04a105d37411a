"""What rules do with a file, as the page at /upload shows it while it happens."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Locator, Page, expect

from asynch import db
from asynch.service import keys
from tests.browser.conftest import MakeVisit, Visit
from tests.live import Live
from tests.receiver import Mood, Receiver
from tests.rows import until

A_WHILE = 20_000  #: ms


def rule(live: Live, name: str, **fields: Any) -> str:
    """A rule of the visitor's tenant, which makes a thumbnail if nothing else is said."""
    body = {"actionName": name, "executeMode": 3, "targetUrl": "image.thumbnail", **fields}
    answer = live.call("POST", "/preAction/createPreAction", body)
    assert answer.status_code == 200, answer.text
    made: str = answer.json()["id"]
    return made


def hook(live: Live, name: str, receiver: Receiver, **fields: Any) -> str:
    return rule(live, name, executeMode=2, targetUrl=f"{receiver.url}/hook", **fields)


def act(row: Locator, name: str) -> Locator:
    """An action in a file's row."""
    return row.locator(".act").filter(has_text=name)


def looks(visit: Visit) -> list[str]:
    """Which files the page has asked for, in order."""
    paths = [request.url.rpartition("/api/file/")[2] for request in visit.requests if request.method == "GET"]
    return [path for path in paths if path.isdigit()]


def set_hidden(page: Page, hidden: bool) -> None:
    page.evaluate(
        "(hidden) => { Object.defineProperty(document, 'hidden', { value: hidden, configurable: true });"
        " document.dispatchEvent(new Event('visibilitychange')) }",
        hidden,
    )


def test_an_action_shows_its_product_now_and_in_the_history(visit: Visit, photo: Path) -> None:
    rule(visit.live, "Small version", options={"width": 120})
    visit.choose(photo)

    done = act(visit.row("photo.jpg"), "Small version")
    expect(done).to_contain_text("Done", timeout=A_WHILE)
    expect(done.get_by_role("link")).to_have_text("photo.thumbnail.jpg")
    expect(done.get_by_alt_text("Thumbnail of photo.thumbnail.jpg")).to_have_js_property("naturalWidth", 120)
    expect(visit.page.locator("#announcer")).to_contain_text("photo.jpg: Small version: Done")
    visit.page.reload()
    expect(act(visit.past("photo.jpg"), "Small version").get_by_role("link")).to_be_visible(timeout=A_WHILE)
