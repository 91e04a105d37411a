"""/upload and its files, as a browser gets them."""

from __future__ import annotations

import re

import pytest

from tests.live import Live, MakeParts, serving
from tests.task_api import problem


def test_the_page_runs_its_own_scripts_alone(live: Live) -> None:
    answer = live.call("GET", "/upload")

    policy = answer.headers["Content-Security-Policy"]
    assert policy.startswith("default-src 'none'; script-src 'self';")
    assert "unsafe" not in policy
    assert re.findall(r"<style|\son\w+=|\sstyle=|<script(?! type=\"module\" src=\"upload/assets/)", answer.text) == []


def test_everything_it_names_is_there(live: Live) -> None:
    wanted, seen = re.findall(r'(?:href|src)="upload/assets/([^"]+)"', live.call("GET", "/upload").text), set[str]()
    while wanted:
        seen.add(name := wanted.pop())
        answer = live.call("GET", f"/upload/assets/{name}")
        assert answer.status_code == 200, name
        wanted += set(re.findall(r'from "\./([^"]+)"', answer.text)) - seen

    assert {"page.css", "page.js", "tus.js"} <= seen


def test_a_file_of_it_is_sent_once(live: Live) -> None:
    first = live.call("GET", "/upload/assets/page.js")
    again = live.call("GET", "/upload/assets/page.js", headers={"If-None-Match": first.headers["ETag"]})

    assert first.headers["Content-Type"] == "text/javascript; charset=utf-8"
    assert (first.headers["Cache-Control"], first.headers["X-Content-Type-Options"]) == ("no-cache", "nosniff")
    assert (again.status_code, again.content) == (304, b"")


@pytest.mark.parametrize("name", ["no.js", "..%2Fauth.py", "%2e%2e/templates/upload.html", "page.py"])
def test_nothing_else_is_served(live: Live, name: str) -> None:
    assert problem(live.call("GET", f"/upload/assets/{name}"))[0] == 404


@pytest.mark.parametrize(("mode", "asks"), [("none", "no"), ("apikey", "yes")])
def test_it_asks_for_a_key_where_there_are_keys(make_parts: MakeParts, mode: str, asks: str) -> None:
    with serving(make_parts(auth={"mode": mode})) as live:
        assert f'data-asks="{asks}"' in live.call("GET", "/upload").text
