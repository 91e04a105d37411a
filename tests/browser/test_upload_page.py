"""The page at /upload, as people in a browser have it."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path

import pytest
from playwright.sync_api import Page, expect

from asynch import db
from asynch.service import keys
from tests.browser.conftest import MakeVisit, Visit, sign_in
from tests.waiting import until

A_WHILE = 20_000  #: ms
LARGE = 2_000_000
SLOWLY = 1_500_000


@pytest.fixture
def note(tmp_path: Path) -> Path:
    (path := tmp_path / "notes.txt").write_text("what I wanted to say")
    return path


@pytest.fixture
def large(tmp_path: Path) -> Path:
    (path := tmp_path / "large.png").write_bytes(b"\x89PNG\r\n\x1a\n" + os.urandom(LARGE))
    return path


def expect_stored(visit: Visit, *names: str) -> None:
    for name in names:
        expect(visit.row(name)).to_contain_text("Stored", timeout=A_WHILE)


def send_half(visit: Visit, path: Path) -> int:
    """Choose a file and wait until some of it is at the server; how much."""
    visit.slow_down(SLOWLY)
    visit.choose(path)
    half_here = lambda: visit.page.evaluate("1") and visit.bytes_here() > LARGE // 3  # noqa: E731
    until(half_here, 20)
    return visit.bytes_here()


def test_several_files_at_once_end_stored_and_are_in_the_history(visit: Visit, photo: Path, note: Path) -> None:
    (more := note.with_name("more.txt")).write_text("and more")
    visit.choose(photo, note, more)

    expect_stored(visit, "photo.jpg", "notes.txt", "more.txt")
    visit.page.reload()
    for name in ("photo.jpg", "notes.txt", "more.txt"):
        expect(visit.past(name).get_by_role("link", name=name)).to_be_visible(timeout=A_WHILE)
    thumbnail = visit.past("photo.jpg").get_by_alt_text("Thumbnail of photo.jpg")
    expect(thumbnail).to_have_js_property("complete", True)
    assert thumbnail.evaluate("image => image.naturalWidth") > 0


def test_two_files_are_sent_at_a_time(visit: Visit, tmp_path: Path) -> None:
    paths = [tmp_path / f"{n}.png" for n in (1, 2, 3)]
    for path in paths:
        path.write_bytes(b"\x89PNG\r\n\x1a\n" + os.urandom(SLOWLY // 4))
    visit.slow_down(SLOWLY // 2)
    visit.choose(*paths)

    expect(visit.row("1.png")).to_contain_text("Uploading")
    expect(visit.row("2.png")).to_contain_text("Uploading")
    expect(visit.row("3.png")).to_contain_text("Waiting for its turn")
    visit.slow_down(-1)
    expect_stored(visit, "1.png", "2.png", "3.png")


def test_a_dropped_file_is_uploaded(visit: Visit) -> None:
    dropped = visit.page.evaluate_handle(
        "() => { const d = new DataTransfer(); d.items.add(new File(['dropped'], 'dropped.txt')); return d }"
    )
    visit.page.dispatch_event("#drop", "drop", {"dataTransfer": dropped})

    expect_stored(visit, "dropped.txt")


def test_a_hostile_name_is_text(visit: Visit, tmp_path: Path) -> None:
    name = "\u202e\"><img src=x onerror=document.title='owned'>.txt"
    (tmp_path / name).write_text("harmless")
    visit.choose(tmp_path / name)

    expect_stored(visit, name[1:])
    expect(visit.past(name[1:]).get_by_role("link")).to_have_text(name[1:], timeout=A_WHILE)
    expect(visit.page.locator("img[src=x]")).to_have_count(0)
    expect(visit.page).to_have_title("Upload files – asynch")


def test_after_a_reload_an_upload_goes_on_where_it_was(visit: Visit, large: Path) -> None:
    before = send_half(visit, large)
    visit.page.reload()
    expect(visit.row("large.png")).to_contain_text("choose the file again to go on")
    sent = len(visit.pieces())
    visit.slow_down(-1)
    visit.choose(large)

    expect_stored(visit, "large.png")
    assert min(visit.pieces()[sent:]) >= before
    expect(visit.page.locator("#past li")).to_have_count(1)


def test_after_a_reload_processing_is_still_watched(visit: Visit, endless_film: Path) -> None:
    visit.choose(endless_film)
    expect(visit.row("endless.mp4")).to_contain_text("Being made smaller", timeout=A_WHILE)
    visit.page.reload()

    expect(visit.row("endless.mp4")).to_contain_text("Stored", timeout=90_000)  # beside other tests that takes its time


def test_a_broken_connection_mends_itself(make_visit: MakeVisit, large: Path) -> None:
    visit = make_visit()
    visit.open()
    before = send_half(visit, large)
    visit.proxy.cut()
    visit.slow_down(-1)

    expect_stored(visit, "large.png")
    assert visit.pieces()[-1] >= before


def test_a_paused_upload_waits_and_goes_on(visit: Visit, large: Path) -> None:
    send_half(visit, large)
    visit.page.get_by_role("button", name="Pause large.png").click()
    expect(visit.row("large.png")).to_contain_text("Paused at")
    sent = len(visit.pieces())
    visit.slow_down(-1)
    visit.page.get_by_role("button", name="Resume large.png").click()

    expect_stored(visit, "large.png")
    assert min(visit.pieces()[sent:]) > 0


def test_two_pages_do_not_fight_over_a_file(visit: Visit, large: Path) -> None:
    send_half(visit, large)
    other = replace(visit, page=visit.page.context.new_page())
    other.open()
    expect(other.row("large.png")).to_contain_text("choose the file again to go on", timeout=A_WHILE)
    other.choose(large)

    expect_stored(other, "large.png")
    expect(visit.row("large.png")).to_contain_text("Another page goes on with this file.", timeout=A_WHILE)


def test_a_cancelled_upload_leaves_no_bytes(visit: Visit, large: Path) -> None:
    send_half(visit, large)
    visit.page.get_by_role("button", name="Cancel large.png").click()

    expect(visit.row("large.png")).to_have_count(0)
    expect(visit.past("large.png")).to_contain_text("ended by its sender", timeout=A_WHILE)
    assert visit.bytes_here() == 0
    visit.page.reload()
    expect(visit.past("large.png")).to_be_visible()
    expect(visit.row("large.png")).to_have_count(0)


def test_a_film_shows_its_cover(visit: Visit, film: Path) -> None:
    visit.choose(film)

    cover = visit.row("film.mp4").get_by_alt_text("Cover of film.mp4")
    expect(cover).to_be_visible(timeout=A_WHILE)
    expect(cover).to_have_js_property("naturalWidth", 320)
    visit.page.reload()
    expect(visit.past("film.mp4").get_by_alt_text("Cover of film.mp4")).to_be_visible()


def test_a_refused_type_says_why(make_visit: MakeVisit, large: Path) -> None:
    visit = make_visit(uploads={"types": ["video/*"]})
    visit.open()
    expect(visit.page.locator("#limits")).to_contain_text("videos.")
    visit.choose(large)

    expect(visit.row("large.png")).to_contain_text("Files of this type are not taken: image/png.", timeout=A_WHILE)


def test_the_history_has_pages(visit: Visit) -> None:
    files = [("file", (f"{n}.txt", f"number {n}")) for n in range(12)]
    for field in files:
        visit.live.session.post(f"{visit.origin}/api/file/upload", files=[field])
    visit.page.reload()

    expect(visit.past("11.txt")).to_be_visible()
    visit.page.get_by_role("button", name="Older").press("Enter")
    expect(visit.page.get_by_text("Page 2 of 2")).to_be_visible()
    expect(visit.page.locator("#past li")).to_have_count(2)
    visit.page.get_by_role("button", name="Newer").press("Enter")
    expect(visit.page.locator("#past li")).to_have_count(10)


def test_the_keyboard_alone_suffices(visit: Visit, note: Path) -> None:
    with visit.page.expect_file_chooser() as chosen:
        tab_to(visit.page, "files")
        visit.page.keyboard.press("Enter")
    assert chosen.value.is_multiple()
    chosen.value.set_files(note)

    expect_stored(visit, "notes.txt")


def test_where_keys_are_needed_the_page_asks_for_one(make_visit: MakeVisit, pool: db.Pool, note: Path) -> None:
    visit = make_visit(auth={"mode": "apikey"})
    secret = keys.create_key(pool, 7, "eva", admin=False)[1]
    visit.open()
    expect(visit.page.get_by_label("Choose files", exact=True)).to_be_hidden()
    visit.page.get_by_label("API key or token").fill(secret[:-1])
    visit.page.keyboard.press("Enter")
    expect(visit.page.get_by_role("alert")).to_have_text("This key is not accepted.")
    sign_in(visit, secret)
    visit.choose(note)

    expect_stored(visit, "notes.txt")
    assert secret not in str(visit.page.evaluate("JSON.stringify(localStorage) + document.cookie + location"))
    visit.page.get_by_role("button", name="Forget it").click()
    expect(visit.page.get_by_label("API key or token")).to_be_visible()
    expect(visit.page.get_by_text("notes.txt")).to_have_count(0)


def test_an_upload_goes_on_after_signing_in_again(make_visit: MakeVisit, pool: db.Pool, large: Path) -> None:
    visit = make_visit(auth={"mode": "apikey"})
    secret = keys.create_key(pool, 7, "eva", admin=False)[1]
    visit.open()
    sign_in(visit, secret)
    before = send_half(visit, large)
    visit.page.get_by_role("button", name="Pause large.png").click()
    visit.page.evaluate("sessionStorage.clear()")
    visit.page.get_by_role("button", name="Resume large.png").click()
    expect(visit.row("large.png")).to_contain_text("Sign in again to go on.")
    visit.slow_down(-1)
    sign_in(visit, secret)

    expect_stored(visit, "large.png")
    assert visit.pieces()[-1] >= before


def test_it_fits_a_narrow_screen(visit: Visit, photo: Path) -> None:
    visit.page.set_viewport_size({"width": 320, "height": 640})
    (long := photo.with_name(f"{'long' * 40}.jpg")).write_bytes(photo.read_bytes())
    visit.choose(long)
    expect_stored(visit, "longlong")

    assert visit.page.evaluate("document.documentElement.scrollWidth") == 320


def tab_to(page: Page, wanted: str) -> None:
    for _ in range(10):
        page.keyboard.press("Tab")
        if page.evaluate("document.activeElement.id") == wanted:
            return
    raise AssertionError(f"the keyboard does not lead to {wanted}")
