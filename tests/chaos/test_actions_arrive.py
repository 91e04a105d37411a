"""kill -9 between any two rows of rules at work: each action is there once, and comes to its end."""

from __future__ import annotations

import io
from collections import Counter, defaultdict
from typing import Any

import pytest
from PIL import Image

from tests.chaos.farm import Farm
from tests.receiver import Receiver
from tests.waiting import until

#: where one worker after the other dies, the numbers of passings spread over uploads and their actions
DEATHS = (
    "claimed:2", "tmp_created:3", "called:4", "adopted:3", "synced:3", "saved:3", "stored:3", "delivered:2", "done:1",
    "done:2", "called:7", "tmp_removed:4",
)  # fmt: skip
RULES = {"small", "tell", "publish", "look", "then"}


def picture(n: int) -> bytes:
    made = io.BytesIO()
    Image.new("RGB", (300, 200), (n, 2 * n, 3 * n)).save(made, "PNG")
    return made.getvalue()


def add_rule(farm: Farm, name: str, **fields: Any) -> str:
    answer = farm.live.call("POST", "/preAction/createPreAction", {"actionName": name, "executeMode": 3, **fields})
    assert answer.status_code == 200, answer.text
    made: str = answer.json()["id"]
    return made


@pytest.fixture
def ruled(farm: Farm, receiver: Receiver) -> Farm:
    """A farm where five rules act on each file, one of them after another."""
    small = add_rule(farm, "small", targetUrl="image.thumbnail", options={"width": 50, "height": 50})
    add_rule(farm, "tell", executeMode=2, targetUrl=receiver.url, retryStrategy="9x@1s")
    add_rule(farm, "publish", executeMode=1, targetUrl="media.new")
    add_rule(farm, "look", targetUrl=f"model:{farm.create_model()}")
    add_rule(farm, "then", executeMode=2, targetUrl=receiver.url, after=small, retryStrategy="9x@1s")
    return farm


def test_each_action_is_there_once_and_ends_whatever_dies(ruled: Farm, receiver: Receiver) -> None:
    sent = []
    for n, point in enumerate(DEATHS):
        victim = ruled.start_worker(crash_point=point, max_crashes=1000, threads=4)
        answer = ruled.live.session.post(
            f"{ruled.live.url}/api/file/upload", files={"file": (f"{n}.png", picture(n + 1))}
        )
        sent.append(answer.json()["task_id"])
        victim.died_by_kill()
    ruled.start_worker(max_crashes=1000)

    open_actions = "SELECT 1 FROM asynch_action WHERE status NOT IN ('completed', 'failed')"
    count = "SELECT 1 FROM asynch_action"
    until(lambda: len(ruled.ask(count)) == len(sent) * len(RULES) and not ruled.ask(open_actions), 120)

    actions = ruled.ask("SELECT a.*, f.parent FROM asynch_action a JOIN asynch_file f ON f.id = a.file_id")
    assert Counter(a["action_name"] for a in actions) == Counter(dict.fromkeys(RULES, len(sent)))
    assert {(a["action_name"], a["error_msg"]) for a in actions if a["status"] != "completed"} == set()
    assert all(a["parent"] is None for a in actions)
    assert len(ruled.ask("SELECT 1 FROM asynch_file WHERE parent IS NULL")) == len(sent)
    assert len(ruled.ask("SELECT 1 FROM asynch_file WHERE parent IS NOT NULL")) == len(sent)
    assert len(ruled.ask("SELECT 1 FROM asynch_message")) == len(sent)
    expect_stable_ids(receiver, {f"msg_{a['id']}" for a in actions if a["action_name"] in ("tell", "then")})
    ruled.stop_workers()
    expect_no_leftovers(ruled)


def expect_stable_ids(receiver: Receiver, wanted: set[str]) -> None:
    """Each message came at least once, and all repetitions of one tell of the same."""
    told = defaultdict(set)
    for message in receiver.messages:
        told[message.id].add((message.told["data"]["action"]["id"], message.told["data"]["file"]["identity"]))
    assert set(told) == wanted
    assert all(len(about) == 1 for about in told.values())


def expect_no_leftovers(farm: Farm) -> None:
    """What is stored is some file's, or is on the list of what will be removed."""
    rows = farm.ask("SELECT key FROM asynch_file UNION SELECT key FROM asynch_unneeded")
    known = {row["key"] for row in rows}
    stored = [path for path in (farm.home / "files").rglob("*") if path.is_file() and "/." not in str(path)]
    assert {str(path.relative_to(farm.home / "files")) for path in stored} <= known | markers(farm)


def markers(farm: Farm) -> set[str]:
    """Files of the store's own."""
    return {path.name for path in (farm.home / "files").iterdir() if path.is_file()}


def test_a_try_that_ends_with_its_worker_is_told_too(farm: Farm) -> None:
    add_rule(farm, "small", targetUrl="image.thumbnail")
    victim = farm.start_worker(crash_point="claimed:2")  # the upload is the first
    farm.live.session.post(f"{farm.live.url}/api/file/upload", files={"file": ("a.png", picture(1))})
    victim.died_by_kill()
    farm.start_worker()

    until(lambda: farm.ask("SELECT 1 FROM asynch_action WHERE status = 'completed'"))
    tries = farm.ask("SELECT attempt, outcome, error_msg, seconds FROM asynch_action_log ORDER BY id")
    assert [(t["attempt"], t["outcome"], t["error_msg"]) for t in tries] == [
        (1, "failed", "its worker stopped answering"), (2, "completed", ""),
    ]  # fmt: skip
    assert all(t["seconds"] >= 0 for t in tries)
