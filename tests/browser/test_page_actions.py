"""What rules do with a file, as the page at /upload shows it while it happens."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from playwright.sync_api import Locator, Page, expect

from asynch import db
from asynch.service import keys
from tests.browser.conftest import MakeVisit, Visit, sign_in
from tests.live import Live
from tests.receiver import Mood, Receiver
from tests.waiting import until

A_WHILE = 20_000  #: ms
#: Each look at a file counts; it is open until the page has had the answer.
COUNTING = """
window.looks = { count: 0, open: 0 }
const ask = window.fetch, channel = new MessageChannel()
channel.port1.onmessage = () => { looks.open -= 1 }
window.fetch = async (url, options) => {
  if (!/\\/api\\/file\\/\\d+$/.test(url)) return ask(url, options)
  looks.count += 1
  looks.open += 1
  try {
    const answer = await ask(url, options)
    await answer.clone().text()
    return answer
  } finally {
    channel.port2.postMessage("")
  }
}
"""


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


def open_with_clock(visit: Visit) -> None:
    """Have the page anew, with a clock that is ours and a count of its looks at files, which events tell too late."""
    visit.page.clock.install()
    visit.page.add_init_script(COUNTING)
    visit.open()


def looks(visit: Visit) -> int:
    """How often the page has asked for a file, once it has all answers."""

    def told() -> int:
        count: int = visit.page.evaluate("looks.open ? -1 : looks.count")
        return count

    until(lambda: told() >= 0, 20)
    return told()


def looks_more(visit: Visit, seconds: int) -> bool:
    """Let time pass in the page alone; whether it asked for a file meanwhile."""
    before = looks(visit)
    visit.page.clock.run_for(seconds * 1000)
    return looks(visit) > before


def rest_until_slowest(visit: Visit) -> None:
    """Let so much time pass in the page that it asks as seldom as it ever will, and has just asked."""
    for _ in range(20):
        looks_more(visit, 10)  # less than the patience of a call, which is of the same clock
    until(lambda: looks_more(visit, 1), 20)


def begin_waiting(visit: Visit, path: Path) -> None:
    """Have a file with an action that is due in a week, on a page whose clock is ours."""
    rule(visit.live, "Next week", delaySeconds=604_800)
    visit.choose(path)
    expect(act(visit.row(path.name), "Next week")).to_contain_text("Waiting", timeout=A_WHILE)
    open_with_clock(visit)
    expect(act(visit.past(path.name), "Next week").last).to_contain_text("Waiting", timeout=A_WHILE)


def set_tags(pool: db.Pool, *tags: str) -> None:
    with db.transaction(pool) as conn:
        conn.execute("UPDATE asynch_file SET tags = %s", (list(tags),))


def count_files(pool: db.Pool) -> int:
    with db.connection(pool) as conn:
        row = conn.execute("SELECT count(*) AS files FROM asynch_file").fetchone()
        return int(row["files"]) if row else 0


def hide(page: Page, hidden: bool) -> None:
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
    expect(visit.page.get_by_role("log")).to_contain_text("photo.jpg: Small version: Done")
    visit.page.reload()
    expect(act(visit.past("photo.jpg"), "Small version").get_by_role("link")).to_be_visible(timeout=A_WHILE)


def test_a_failed_action_says_why(visit: Visit, tmp_path: Path, receiver: Receiver) -> None:
    receiver.moods.append(Mood(status=410, body=b"no more <b>of this</b>"))
    hook(visit.live, "Tell the archive", receiver)
    rule(visit.live, "Small version")
    (path := tmp_path / "notes.txt").write_text("no picture")
    visit.choose(path)

    row = visit.row("notes.txt")
    expect(act(row, "Tell the archive")).to_contain_text("Failed HTTP 410: no more <b>of this</b>", timeout=A_WHILE)
    expect(act(row, "Small version")).to_contain_text("is no picture", timeout=A_WHILE)
    expect(row.locator("summary")).to_have_text("2 actions: 2 failed")
    expect(visit.page.get_by_role("log")).to_contain_text("notes.txt: Tell the archive: Failed: HTTP 410")


def test_what_comes_after_an_action_appears_by_itself(visit: Visit, photo: Path, receiver: Receiver) -> None:
    first = rule(visit.live, "Small version")
    hook(visit.live, "Tell the archive", receiver, after=first)
    visit.choose(photo)

    expect(act(visit.row("photo.jpg"), "Tell the archive")).to_contain_text("Done", timeout=A_WHILE)
    assert len(receiver.messages) == 1


def test_a_delayed_action_waits_and_is_done_when_it_is_due(visit: Visit, photo: Path) -> None:
    rule(visit.live, "Later", delaySeconds=2)
    visit.choose(photo)

    expect(act(visit.row("photo.jpg"), "Later")).to_contain_text("Waiting", timeout=A_WHILE)
    expect(act(visit.past("photo.jpg"), "Later")).to_contain_text("Done", timeout=A_WHILE)


def test_a_delayed_action_says_when_it_is_due(visit: Visit, photo: Path) -> None:
    rule(visit.live, "Next week", delaySeconds=604_800)
    visit.choose(photo)

    for row in (visit.row("photo.jpg"), visit.past("photo.jpg")):
        expect(act(row, "Next week")).to_contain_text("Waiting until ", timeout=A_WHILE)
        due = datetime.fromisoformat(str(act(row, "Next week").locator("time").get_attribute("datetime")))
        assert timedelta(days=6.9) < due - datetime.now(UTC) < timedelta(days=7)


def test_an_action_that_is_tried_again_says_when_and_why(visit: Visit, photo: Path, receiver: Receiver) -> None:
    receiver.moods.append(Mood(status=500, body=b"full"))
    hook(visit.live, "Tell the archive", receiver, retryStrategy="1x@1h")
    visit.choose(photo)

    shown = act(visit.row("photo.jpg"), "Tell the archive")
    expect(shown).to_contain_text("Waiting until ", timeout=A_WHILE)
    expect(shown).to_contain_text("HTTP 500: full")


def test_hostile_names_and_tags_of_actions_are_text(visit: Visit, photo: Path, pool: db.Pool) -> None:
    hostile = "<img src=x onerror=document.title='owned'>"
    rule(visit.live, f"\u202e{hostile}")
    rule(visit.live, "__proto__", delaySeconds=604_800)
    form = [("file", ("photo.jpg", photo.read_bytes())), ("tags", (None, f"sea,{hostile}"))]
    visit.live.session.post(f"{visit.origin}/api/file/upload", files=form)
    until(lambda: count_files(pool) == 1, 20)
    visit.page.reload()

    row = visit.past("photo.jpg")
    expect(row.get_by_text(hostile, exact=True).last).to_be_visible(timeout=A_WHILE)
    expect(act(row, "__proto__")).to_contain_text("Waiting")
    expect(row.get_by_role("list", name="Tags").get_by_role("listitem")).to_have_text(["sea", hostile])
    expect(visit.page.locator("img[src=x]")).to_have_count(0)
    expect(visit.page).to_have_title("Upload files – asynch")


def test_a_posted_result_its_tags_and_its_text_are_shown(visit: Visit, photo: Path, receiver: Receiver) -> None:
    hook(visit.live, "Look at it", receiver, awaitResult=True)
    visit.choose(photo)
    expect(act(visit.row("photo.jpg"), "Look at it")).to_contain_text("Waiting for its result", timeout=A_WHILE)
    output = {"tags": ["boat", "sea"], "note": "<b>calm</b>"}
    where = (
        receiver.messages[0].told["data"]["result_url"].partition("/action/")[2]
    )  # the worker knows no address of ours
    visit.live.call("POST", f"/action/{where}", {"success": True, "output": output}).raise_for_status()

    for row in (visit.row("photo.jpg"), visit.past("photo.jpg")):
        expect(act(row, "Look at it")).to_contain_text("Done", timeout=A_WHILE)
        expect(act(row, "Look at it")).to_contain_text("<b>calm</b>")
        expect(row.get_by_role("list", name="Tags").get_by_role("listitem")).to_have_text(["boat", "sea"])
    expect(visit.page.get_by_role("log")).to_contain_text("photo.jpg: Tags: boat, sea")


def test_a_page_asks_ever_more_seldom_and_never_while_it_is_hidden(visit: Visit, photo: Path) -> None:
    begin_waiting(visit, photo)
    rest_until_slowest(visit)
    assert not looks_more(visit, 25)
    hide(visit.page, True)
    assert not looks_more(visit, 600)
    before = looks(visit)
    hide(visit.page, False)

    assert looks(visit) == before + 1


def test_a_page_asks_no_more_once_all_is_over(visit: Visit, photo: Path) -> None:
    rule(visit.live, "Small version")
    visit.choose(photo)
    expect(act(visit.row("photo.jpg"), "Small version")).to_contain_text("Done", timeout=A_WHILE)
    open_with_clock(visit)
    expect(act(visit.past("photo.jpg"), "Small version")).to_contain_text("Done", timeout=A_WHILE)

    assert not looks_more(visit, 600)


def test_rows_of_one_file_share_their_looks(visit: Visit, photo: Path) -> None:
    for _ in range(5):
        visit.live.session.post(f"{visit.origin}/api/file/upload", files=[("file", ("photo.jpg", photo.read_bytes()))])
    begin_waiting(visit, photo)
    expect(act(visit.past("photo.jpg"), "Next week")).to_have_count(6, timeout=A_WHILE)
    rest_until_slowest(visit)
    before = looks(visit)
    assert not looks_more(visit, 25)
    assert looks_more(visit, 6)

    assert looks(visit) == before + 1


def test_a_page_that_asks_too_often_waits_as_long_as_it_is_told(
    make_visit: MakeVisit, pool: db.Pool, photo: Path
) -> None:
    visit = make_visit(limits={"reads_per_minute": 6})
    rule(visit.live, "Next week", delaySeconds=604_800)
    visit.live.session.post(f"{visit.origin}/api/file/upload", files=[("file", ("photo.jpg", photo.read_bytes()))])
    until(lambda: count_files(pool) == 1, 20)
    refused: list[int] = []
    visit.page.on("response", lambda answer: refused.append(int(answer.headers.get("retry-after", 0))))
    open_with_clock(visit)
    until(lambda: looks_more(visit, 1) and any(refused), 20)

    assert max(refused) > 20
    assert not looks_more(visit, max(refused) - 5)
    assert looks_more(visit, 6)


def test_after_signing_in_again_files_are_watched_on(make_visit: MakeVisit, pool: db.Pool, photo: Path) -> None:
    visit = make_visit(auth={"mode": "apikey"})
    secret = keys.create_key(pool, 0, "eva", admin=True)[1]
    visit.live.session.headers["Authorization"] = f"Bearer {secret}"
    rule(visit.live, "Next week", delaySeconds=604_800)
    visit.open()
    sign_in(visit, secret)
    visit.choose(photo)
    expect(act(visit.row("photo.jpg"), "Next week")).to_contain_text("Waiting", timeout=A_WHILE)
    visit.page.evaluate("sessionStorage.clear()")
    expect(visit.page.get_by_label("API key or token")).to_be_visible(timeout=A_WHILE)
    set_tags(pool, "boat")
    sign_in(visit, secret)

    expect(visit.row("photo.jpg").get_by_role("list", name="Tags")).to_have_text("boat", timeout=A_WHILE)


def test_many_actions_are_folded_and_the_keyboard_opens_them(visit: Visit, photo: Path) -> None:
    for number in range(5):
        rule(visit.live, f"Later {number}", delaySeconds=604_800)
    visit.choose(photo)
    summary = visit.row("photo.jpg").locator("summary")
    expect(summary).to_have_text("5 actions: 5 waiting", timeout=A_WHILE)
    expect(act(visit.row("photo.jpg"), "Later 4")).to_be_hidden()
    summary.focus()
    visit.page.keyboard.press("Enter")

    expect(act(visit.row("photo.jpg"), "Later 4")).to_be_visible()


def test_long_names_fit_a_narrow_screen(visit: Visit, tmp_path: Path) -> None:
    visit.page.set_viewport_size({"width": 320, "height": 640})
    rule(visit.live, "long" * 30)
    (path := tmp_path / f"{'word' * 40}.txt").write_text("no picture")
    form = [("file", (path.name, path.read_bytes())), ("tags", (None, "tag" * 20))]
    visit.live.session.post(f"{visit.origin}/api/file/upload", files=form)
    visit.choose(path)
    expect(act(visit.row("word"), "longlong")).to_contain_text("Failed", timeout=A_WHILE)
    expect(visit.past("word").get_by_role("list", name="Tags").first).to_be_visible(timeout=A_WHILE)

    assert visit.page.evaluate("document.documentElement.scrollWidth") == 320


def test_every_state_has_a_word(visit: Visit) -> None:
    states = ["pending", "processing", "awaiting", "completed", "failed", "on_hold", "toString"]
    said = visit.page.evaluate(
        "(states) => import('/upload/assets/words.js').then((words) => states.map(words.wordOf))", states
    )

    assert said == ["Waiting", "Running", "Waiting for its result", "Done", "Failed", "on_hold", "toString"]
