"""A headless Chromium, the service it visits with a worker behind it, and a visitor who sees what goes wrong."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
from playwright.sync_api import Browser, ConsoleMessage, Locator, Page, Request, expect, sync_playwright

from asynch.storage.local import LocalStorage
from tests.live import Live, MakeParts, serving
from tests.programs import free_port
from tests.proxy import Proxy
from tests.task_api import Api, working

CHROMIUMS = ("chromium", "chromium-browser", "google-chrome")
FLAGS = [
    "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking", "--disable-component-update",
    "--disable-sync", "--no-proxy-server",
]  # fmt: skip


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    """The system's Chromium, one a module; without it a skip at home and a failure in CI."""
    path = next(filter(None, map(shutil.which, CHROMIUMS)), None)
    if path is None:
        missing = pytest.fail if os.environ.get("CI") else pytest.skip
        missing("the tests need Chromium")
    flags = [*FLAGS, "--no-sandbox"] if os.geteuid() == 0 else FLAGS
    with sync_playwright() as playwright:
        launched = playwright.chromium.launch(executable_path=path, args=flags)
        yield launched
        launched.close()


@dataclass
class Visit:
    """One person at the page, in a profile of their own."""

    page: Page
    live: Live
    origin: str  #: of the page as this person sees it
    proxy: Proxy  #: what lies between
    wrong: list[str] = field(default_factory=list)  #: what the console and the page's scripts complained of
    requests: list[Request] = field(default_factory=list)

    @cached_property
    def api(self) -> Api:
        return Api(self.live)

    def open(self) -> None:
        self.page.goto(f"{self.origin}/upload")

    def choose(self, *files: Path) -> None:
        self.page.get_by_label("Choose files", exact=True).set_input_files(list(files))

    def row(self, name: str) -> Locator:
        """The row of a current upload."""
        return self.page.locator("#transfers > li").filter(has_text=name)

    def past(self, name: str) -> Locator:
        """The row of an upload in the history."""
        return self.page.locator("#past > li").filter(has_text=name)

    def slow_down(self, bytes_per_s: int) -> None:
        """Let uploads take their time; -1 for as fast as can be."""
        devtools = self.page.context.new_cdp_session(self.page)
        limits = {"offline": False, "latency": 0, "downloadThroughput": -1, "uploadThroughput": bytes_per_s}
        devtools.send("Network.emulateNetworkConditions", limits)

    def pieces(self) -> list[int]:
        """Offsets of the pieces that were sent."""
        return [int(r.headers["upload-offset"]) for r in self.requests if r.method == "PATCH"]

    def bytes_here(self) -> int:
        """Of unfinished uploads, at the server."""
        folder = self.live.parts.settings.tmp_path / ".incoming"
        return sum(path.stat().st_size for path in folder.iterdir() if not path.name.endswith(".turn"))

    def note(self, message: ConsoleMessage) -> None:
        if message.type in ("error", "warning"):
            self.wrong.append(message.text)


MakeVisit = Callable[..., Visit]


@pytest.fixture
def make_visit(browser: Browser, make_parts: MakeParts, dsn: str) -> Iterator[MakeVisit]:
    """Visits of a service with these sections of settings."""
    with ExitStack() as ends:

        def make(**sections: Any) -> Visit:
            port = free_port()
            proxy = ends.enter_context(Proxy(("127.0.0.1", port)))
            origin = f"http://127.0.0.1:{proxy.port}"
            parts = make_parts(server={"public_url": origin}, **sections)
            storage = parts.storage
            assert isinstance(storage, LocalStorage)
            key = parts.box.signing_key("files")
            storage = LocalStorage(parts.settings.files_path, base_url=origin, signing_key=key, url_ttl_s=3600)
            live = ends.enter_context(serving(replace(parts, storage=storage), port))
            ends.enter_context(working(live, dsn))
            context = ends.enter_context(browser.new_context())
            visit = Visit(context.new_page(), live, origin, proxy)
            visit.page.on("console", visit.note)
            visit.page.on("pageerror", lambda error: visit.wrong.append(str(error)))
            visit.page.on("request", lambda request: visit.requests.append(request))
            return visit

        yield make


@pytest.fixture
def visit(make_visit: MakeVisit) -> Iterator[Visit]:
    """A visit without authentication, at the end of which nobody else was asked and nothing was wrong."""
    made = make_visit()
    made.open()
    yield made
    strangers = {urlsplit(request.url).netloc for request in made.requests} - {urlsplit(made.origin).netloc}
    assert strangers == set()
    assert made.wrong == []


def sign_in(visit: Visit, secret: str) -> None:
    """Give the page a key or a token, as a visitor does."""
    visit.page.get_by_label("API key or token").fill(secret)
    visit.page.keyboard.press("Enter")
    expect(visit.page.get_by_label("Choose files", exact=True)).to_be_focused()
