"""Rules at work: what matches a complete file is done once, whoever dies; derived files, chains and deliveries."""

from __future__ import annotations

import io
from datetime import datetime

import pytest
from PIL import Image
from standardwebhooks import Webhook

from asynch import db
from asynch.service.actions import MOST_GENERATIONS
from tests.actions import acted, completed, rule, send, tries
from tests.database import all_rows
from tests.receiver import Mood, Receiver
from tests.rows import ago, bend
from tests.sending import file_of
from tests.task_api import Api, put_back, working
from tests.waiting import until

pytestmark = pytest.mark.usefixtures("working_host")


def seconds_to(time: str, *, since: str) -> float:
    return (datetime.fromisoformat(time) - datetime.fromisoformat(since)).total_seconds()


def test_a_matching_rule_makes_a_derived_file(api: Api, dsn: str, picture: bytes) -> None:
    rule(api, "thumb", triggerCondition={"mime": "image/*"}, options={"width": 120, "height": 120})
    rule(api, "films only", triggerCondition={"mime": "video/*"})
    with working(api.live, dsn):
        identity = completed(api, send(api, picture))
        file = acted(api, identity, 1)

    (action,), (derived,) = file["actions"], file["derived"]
    assert (action["name"], action["status"], action["output"]) == (
        "thumb", "completed", {"identity": derived["identity"]},
    )  # fmt: skip
    assert derived["parent"] == identity
    body = api.live.call("GET", derived["url"].removeprefix("http://127.0.0.1")).content
    assert max(Image.open(io.BytesIO(body)).size) == 120
    (logged,) = tries(api)
    assert (logged["outcome"], logged["fileId"], logged["taskId"]) == ("completed", identity, action["task_id"])


def test_a_rule_fires_once_a_file_and_version(api: Api, dsn: str, picture: bytes, pool: db.Pool) -> None:
    made = rule(api, "thumb")
    with working(api.live, dsn):
        identity = completed(api, send(api, picture))
        acted(api, identity, 1)
        assert completed(api, send(api, picture)) == identity
        assert len(file_of(api, identity)["actions"]) == 1
        api.call("PUT", "/preAction/updatePreAction", {"id": made, "options": {"width": 50}})
        assert completed(api, send(api, picture)) == identity
        file = acted(api, identity, 2)

    assert [a["version"] for a in file["actions"]] == [1, 2]


def test_a_rule_that_is_off_or_came_later_fires_nothing(api: Api, dsn: str, picture: bytes) -> None:
    rule(api, "off", status=9)
    rule(api, "later", delaySeconds=3600)
    with working(api.live, dsn):
        identity = completed(api, send(api, picture))

    (action,) = file_of(api, identity)["actions"]
    assert (action["name"], action["status"]) == ("later", "pending")
    assert seconds_to(action["due_at"], since=action["created_at"]) == pytest.approx(3600, abs=1)


def test_what_was_fired_is_done_although_its_rule_is_off_or_gone(api: Api, dsn: str, picture: bytes) -> None:
    off, gone = (rule(api, name, delaySeconds=3600) for name in ("off", "gone"))
    with working(api.live, dsn):
        identity = completed(api, send(api, picture))
        assert api.call("PUT", "/preAction/updatePreAction", {"id": off, "status": 9}).status_code == 200
        assert api.call("DELETE", f"/preAction/deletePreAction?id={gone}").status_code == 200
        waiting = [int(action["task_id"]) for action in file_of(api, identity)["actions"]]
        bend(api.live.parts.pool, waiting, enqueue_at=ago(1))
        file = acted(api, identity, 2)

    assert [action["status"] for action in file["actions"]] == ["completed", "completed"]


def test_derived_files_fire_only_rules_that_opt_in(api: Api, dsn: str, picture: bytes) -> None:
    rule(api, "thumb", options={"width": 200})
    rule(api, "of derived", triggerCondition={"derived": True, "name": "*thumbnail*"}, options={"width": 64})
    with working(api.live, dsn):
        identity = completed(api, send(api, picture))
        file = acted(api, identity, 1)
        below = acted(api, file["derived"][0]["identity"], 1)

    assert [a["name"] for a in below["actions"]] == ["of derived"]
    assert below["derived"][0]["parent"] == file["derived"][0]["identity"]


def test_what_rules_make_does_not_fire_them_for_ever(api: Api, dsn: str, picture: bytes, pool: db.Pool) -> None:
    for name, width in (("one", 300), ("two", 290)):
        rule(api, name, triggerCondition={"derived": True}, options={"width": width, "height": width})
    with working(api.live, dsn):
        completed(api, send(api, picture))
        settled = "SELECT 1 FROM asynch_task WHERE NOT final"
        until(lambda: not all_rows(pool, settled), 40)
        until(lambda: not all_rows(pool, settled), 40)

    generations = [row["generation"] for row in all_rows(pool, "SELECT generation FROM asynch_file ORDER BY 1")]
    assert generations[:3] == [0, 1, 1]
    assert max(generations) <= MOST_GENERATIONS + 1
    own = """SELECT 1 FROM asynch_action a JOIN asynch_action b ON b.output->>'identity' = a.file_id::text
             WHERE a.rule_id = b.rule_id"""
    assert all_rows(pool, own) == []


def test_a_chain_goes_on_with_its_parents_output(api: Api, dsn: str, picture: bytes, receiver: Receiver) -> None:
    secret = api.call("POST", "/webhook/rotateSecret").json()["secret"]
    first = rule(api, "thumb", options={"width": 80})
    rule(api, "tell", executeMode=2, targetUrl=f"{receiver.url}/hook", after=first)
    with working(api.live, dsn):
        identity = completed(api, send(api, picture))
        file = acted(api, identity, 2)

    (message,) = receiver.messages
    told = Webhook(secret).verify(message.body, dict(message.headers))
    assert told["type"] == "file.completed"
    assert told["data"]["file"]["identity"] == identity
    assert told["data"]["action"]["input"]["identity"] == file["derived"][0]["identity"]
    assert told["data"]["action"]["input"]["url"]


def test_what_is_delivered_is_signed_without_anybody_asking(
    api: Api, dsn: str, picture: bytes, receiver: Receiver, pool: db.Pool
) -> None:
    rule(api, "tell", executeMode=2, targetUrl=f"{receiver.url}/hook")
    with working(api.live, dsn):
        acted(api, completed(api, send(api, picture)), 1)

    (message,) = receiver.messages
    assert message.headers["webhook-signature"].startswith("v1,")


def test_an_action_is_tried_as_its_strategy_says(
    api: Api, dsn: str, picture: bytes, receiver: Receiver, pool: db.Pool
) -> None:
    rule(api, "tell", executeMode=2, targetUrl=f"{receiver.url}/hook", retryStrategy="2x@1s")
    receiver.moods.append(Mood(status=500))
    with working(api.live, dsn):
        identity = completed(api, send(api, picture))
        until(lambda: len(tries(api)) == 1, 20)
        (failed,) = file_of(api, identity)["actions"]
        until(lambda: put_back(pool) or len(tries(api)) == 2, 20)
        file = acted(api, identity, 1)

    assert (failed["status"], failed["error"]) == ("pending", "HTTP 500")
    assert (file["actions"][0]["error"], file["actions"][0]["due_at"]) == ("", None)
    assert seconds_to(failed["due_at"], since=tries(api)[-1]["createdAt"]) == pytest.approx(1, abs=0.5)
    assert file["actions"][0]["status"] == "completed"
    assert [t["outcome"] for t in tries(api)] == ["completed", "failed"]


def test_a_processor_that_cannot_leaves_its_reason(api: Api, dsn: str) -> None:
    rule(api, "thumb")
    with working(api.live, dsn):
        file = acted(api, completed(api, send(api, b"only words", "a.txt")), 1)

    assert file["actions"][0]["status"] == "failed"
    assert "no picture" in file["actions"][0]["error"]
    assert file["derived"] == []


def test_only_admins_see_the_whole_url_of_a_receiver(api: Api, dsn: str, picture: bytes, receiver: Receiver) -> None:
    url = f"{receiver.url}/hook?token=planted"
    rule(api, "tell", executeMode=2, targetUrl=url)
    with working(api.live, dsn):
        identity = completed(api, send(api, picture))
        acted(api, identity, 1)

    assert file_of(api, identity)["actions"][0]["target"] == url
    assert file_of(api.of(0, "user"), identity)["actions"][0]["target"] == receiver.url


def test_another_tenants_rules_fire_nothing(api: Api, dsn: str, picture: bytes) -> None:
    rule(api.of(9, "admin"), "theirs")
    with working(api.live, dsn):
        identity = completed(api, send(api, picture))

    assert file_of(api, identity)["actions"] == []
