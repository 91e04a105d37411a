"""Callbacks: each end of a task is told, signed, once a message, however often the receiver has to be asked."""

from __future__ import annotations

import json
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from standardwebhooks import WebhookVerificationError

from asynch import db
from asynch.cleaner.expire import expire as expire_queue
from asynch.cleaner.notice import notice
from asynch.cleaner.purge import purge
from asynch.domain import callbacks
from asynch.store import workers
from asynch.worker import outcomes
from tests.database import all_rows
from tests.live import MakeParts, serving
from tests.model_server import ModelServer
from tests.receiver import Mood, Receiver
from tests.rows import ago, bend
from tests.task_api import CLEANER, TERMS, Api, Hand, pointers, problem, put_back, working
from tests.waiting import until

SYSTEM = ~0


@pytest.fixture
def secret(api: Api) -> str:
    answer = api.call("POST", "/webhook/rotateSecret")
    assert answer.status_code == 200
    text: str = answer.json()["secret"]
    return text


def deliveries(api: Api, **wanted: Any) -> list[dict[str, Any]]:
    answer = api.call("POST", "/webhook/listDelivery", wanted)
    assert answer.status_code == 200, answer.text
    found: list[dict[str, Any]] = answer.json()["list"]
    return found


def events_of(api: Api, task_id: str) -> list[str]:
    return [delivery["type"] for delivery in deliveries(api, taskId=task_id)]


def is_due(pool: db.Pool) -> None:
    """Let every failed delivery's pause be over."""
    late = [r["id"] for r in all_rows(pool, "SELECT id FROM asynch_task WHERE state = 3")]
    bend(pool, late, wake_at=ago(1), enqueue_at=ago(1))
    put_back(pool)


# The message


def test_the_end_of_a_task_is_told_signed(
    api: Api, dsn: str, model: ModelServer, receiver: Receiver, secret: str
) -> None:
    api.model(baseUrl=model.url)

    with working(api.live, dsn):
        task_id = api.create(callbackUrl=f"{receiver.url}/hook?x=1#part", metadata={"a": [1.10]}, clientRef="mine")
        until(lambda: receiver.messages, 20)
        until(lambda: deliveries(api)[0]["final"], 20)

    (message,) = receiver.messages
    told = message.verified(secret)
    assert (message.path, told["type"]) == ("/hook?x=1", "task.completed")
    assert message.headers["content-type"] == "application/json"
    assert (message.headers["x-asynch-task-id"], message.headers["idempotency-key"]) == (task_id, message.id)
    assert told["data"]["metadata"] == {"a": [1.1]}
    now = api.status(task_id)
    assert now["state"] == 2
    data = told["data"]
    path = data["ossFile"].removeprefix(api.live.parts.settings.public_url)
    assert api.live.call("GET", path).status_code == 200
    moving = {"ossFile", "result"}  # signed anew at each look
    assert {k: v for k, v in data.items() if k not in moving} == {k: v for k, v in now.items() if k not in moving}
    (delivery,) = deliveries(api)
    assert (delivery["status"], delivery["taskId"], delivery["messageId"]) == ("completed", task_id, message.id)
    assert [(a["outcome"], a["httpStatus"]) for a in delivery["attempts"]] == [("done", 200)]


def test_another_secret_does_not_verify(
    api: Api, dsn: str, model: ModelServer, receiver: Receiver, secret: str
) -> None:
    api.model(baseUrl=model.url)
    with working(api.live, dsn):
        api.create(callbackUrl=receiver.url)
        until(lambda: receiver.messages, 20)

    with pytest.raises(WebhookVerificationError):
        receiver.messages[0].verified(callbacks.new_secret())


def test_old_and_new_secret_are_both_valid_for_a_day(
    api: Api, dsn: str, pool: db.Pool, receiver: Receiver, secret: str
) -> None:
    rotated = api.call("POST", "/webhook/rotateSecret").json()
    assert rotated["formerValidUntil"]
    assert rotated["secret"] != secret

    with working(api.live, dsn):
        api.call("POST", "/webhook/testDelivery", {"callbackUrl": receiver.url})
        until(lambda: receiver.messages, 20)
        assert receiver.messages[0].verified(secret) == receiver.messages[0].verified(rotated["secret"])
        with db.transaction(pool) as conn:
            conn.execute("UPDATE asynch_webhook_key SET expire_at = now() WHERE expire_at IS NOT NULL")
        api.call("POST", "/webhook/testDelivery", {"callbackUrl": receiver.url})
        until(lambda: len(receiver.messages) == 2, 20)

    assert receiver.messages[1].verified(rotated["secret"])["type"] == "webhook.test"
    with pytest.raises(WebhookVerificationError):
        receiver.messages[1].verified(secret)


def test_every_secret_that_was_told_signs_for_its_time(api: Api, dsn: str, receiver: Receiver, secret: str) -> None:
    """However many rotate at once."""
    with ThreadPoolExecutor(8) as threads:
        answers = list(threads.map(lambda _: Api(api.live).call("POST", "/webhook/rotateSecret").json(), range(24)))
    with working(api.live, dsn):
        api.call("POST", "/webhook/testDelivery", {"callbackUrl": receiver.url})
        until(lambda: receiver.messages, 20)

    assert {receiver.messages[0].verified(told)["type"] for told in [secret, *(a["secret"] for a in answers)]} == {
        "webhook.test"
    }


def test_secrets_are_stored_sealed(api: Api, pool: db.Pool, secret: str) -> None:
    (row,) = all_rows(pool, "SELECT secret FROM asynch_webhook_key")
    assert secret not in row["secret"]


# Which ends


def test_each_way_to_end_is_told(api: Api, hand: Hand, pool: db.Pool) -> None:
    api.model()
    url = {"callbackUrl": "http://127.0.0.1:9/hook"}
    done, failed, cut = api.create(**url), api.create(**url), api.create(**url)
    hand.succeed(done)
    hand.fail(failed)
    (claim,) = hand.take(cut)
    hand.settle(outcomes.cancelled(TERMS, claim))
    waiting, late = api.create(**url), api.create(**url)
    api.post(f"{waiting}/cancel")
    bend(pool, [int(late)], wake_at=ago(1))
    expire_queue(pool, CLEANER)

    assert events_of(api, done) == ["task.completed"]
    assert events_of(api, failed) == ["task.failed"]
    assert events_of(api, cut) == events_of(api, waiting) == ["task.cancelled"]
    assert events_of(api, late) == ["task.failed"]


def test_a_crash_is_told(api: Api, hand: Hand, pool: db.Pool) -> None:
    api.model()
    task_id = api.create(callbackUrl="http://127.0.0.1:9/hook")
    hand.take(task_id)
    with db.transaction(pool) as conn:
        keep = workers.Retention(60.0, 60.0)
        workers.rescue(conn, workers=[hand.worker.id], host="h", charged=True, max_crashes=1, keep=keep, most=10)

    assert events_of(api, task_id) == ["task.failed"]
    snapshot = json.loads(
        all_rows(pool, "SELECT request_payload FROM asynch_task WHERE parent_id > 0")[0]["request_payload"]
    )
    assert snapshot["task"]["error_code"] == "crashed"


def test_a_failure_that_is_tried_again_is_no_end_and_the_end_after_it_is(api: Api, hand: Hand, pool: db.Pool) -> None:
    api.model(retryTimes=1)
    task_id = api.create(callbackUrl="http://127.0.0.1:9/hook")
    hand.fail(task_id)
    assert events_of(api, task_id) == []
    put_back(pool)
    hand.fail(task_id)
    assert events_of(api, task_id) == ["task.failed"]

    api.post(f"{task_id}/retry")
    hand.succeed(task_id)
    assert events_of(api, task_id) == ["task.completed", "task.failed"]


def test_a_stale_claim_tells_nothing(api: Api, hand: Hand, pool: db.Pool) -> None:
    api.model()
    task_id = api.create(callbackUrl="http://127.0.0.1:9/hook")
    (claim,) = hand.take(task_id)
    bend(pool, [int(task_id)], attempt=7)

    with pytest.raises(AssertionError):
        hand.settle(outcomes.cancelled(TERMS, claim))

    assert deliveries(api) == []


def test_what_was_told_stays_what_it_was(
    api: Api, dsn: str, hand: Hand, pool: db.Pool, receiver: Receiver, secret: str
) -> None:
    api.model(enabled=1)
    task_id = api.create(callbackUrl=receiver.url)
    hand.fail(task_id)
    bend(pool, [int(task_id)], wake_at=ago(1))
    assert purge(pool, CLEANER, api.live.parts.storage) == 1
    assert problem(api.get(task_id)) == (410, "gone")

    with working(api.live, dsn):
        until(lambda: receiver.messages, 20)

    told = receiver.messages[0].verified(secret)
    assert (told["type"], told["data"]["taskId"], told["data"]["status"]) == ("task.failed", task_id, "failed")


# Attempts


def test_a_receiver_is_asked_again_on_schedule_under_the_same_id(
    api: Api, dsn: str, pool: db.Pool, receiver: Receiver, secret: str
) -> None:
    receiver.moods.extend([Mood(500, body=b"not now"), Mood(302, {"Location": "/elsewhere"}), Mood(404)])
    with working(api.live, dsn):
        api.call("POST", "/webhook/testDelivery", {"callbackUrl": receiver.url})
        for attempt in (1, 2, 3):
            until(lambda: len(receiver.messages) == attempt and deliveries(api)[0]["state"] == 3, 20)  # noqa: B023
            (row,) = all_rows(pool, "SELECT extract(epoch FROM wake_at - finished_at)::float8 AS s FROM asynch_task")
            pause_s = callbacks.SCHEDULE_S[attempt - 1]
            assert pause_s <= row["s"] <= pause_s * 1.1 + 0.1
            is_due(pool)
        until(lambda: deliveries(api)[0]["final"], 20)

    assert len({message.id for message in receiver.messages}) == 1
    assert [message.verified(secret)["type"] for message in receiver.messages] == ["webhook.test"] * 4
    (delivery,) = deliveries(api)
    assert [a["httpStatus"] for a in delivery["attempts"]] == [500, 302, 404, 200]
    assert "not now" in delivery["attempts"][0]["detail"]


def test_its_own_wish_for_a_pause_is_honoured(api: Api, dsn: str, pool: db.Pool, receiver: Receiver) -> None:
    receiver.moods.append(Mood(503, {"Retry-After": "900"}))
    with working(api.live, dsn):
        api.call("POST", "/webhook/testDelivery", {"callbackUrl": receiver.url})
        until(lambda: receiver.messages and deliveries(api)[0]["state"] == 3, 20)

    (row,) = all_rows(pool, "SELECT extract(epoch FROM wake_at - finished_at)::float8 AS s FROM asynch_task")
    assert row["s"] == pytest.approx(900, abs=1)


def test_gone_stops_it(api: Api, dsn: str, receiver: Receiver) -> None:
    receiver.moods.append(Mood(410))
    with working(api.live, dsn):
        api.call("POST", "/webhook/testDelivery", {"callbackUrl": receiver.url})
        until(lambda: deliveries(api)[0]["final"], 20)

    (delivery,) = deliveries(api)
    assert (delivery["status"], delivery["error"]["code"]) == ("failed", "model_http_error")
    assert len(receiver.messages) == 1


def test_a_slow_receiver_delays_nobody_else(api: Api, dsn: str, receiver: Receiver) -> None:
    slow = Receiver()
    slow.moods.extend([Mood(hangs=True)] * 50)
    try:
        with working(api.live, dsn, worker={"threads": 10, "poll_interval": 0.2, "drain_timeout": 0}):
            for _ in range(20):
                api.call("POST", "/webhook/testDelivery", {"callbackUrl": slow.url})
            until(lambda: len(slow.messages) == callbacks.AT_ONCE, 20)
            api.call("POST", "/webhook/testDelivery", {"callbackUrl": receiver.url})
            until(lambda: receiver.messages, 5)
            assert len(slow.messages) == callbacks.AT_ONCE
            slow.over.set()
    finally:
        slow.close()


def test_a_message_can_be_delivered_again_under_its_id(
    api: Api, dsn: str, receiver: Receiver, secret: str, model: ModelServer
) -> None:
    api.model(baseUrl=model.url)
    with working(api.live, dsn):
        task_id = api.create(callbackUrl=receiver.url)
        until(lambda: receiver.messages and deliveries(api)[0]["final"], 20)
        first = deliveries(api)[0]
        again = api.call("POST", f"/webhook/{first['id']}/redeliver")
        assert again.status_code == 202
        until(lambda: len(receiver.messages) == 2, 20)
        third = api.call("POST", f"/webhook/{again.json()['id']}/redeliver")
        until(lambda: len(receiver.messages) == 3, 20)

    assert {message.id for message in receiver.messages} == {first["messageId"]}
    assert [d["id"] for d in deliveries(api, taskId=task_id)] == [third.json()["id"], again.json()["id"], first["id"]]
    assert {m.verified(secret)["data"]["taskId"] for m in receiver.messages} == {task_id}
    assert problem(api.call("POST", "/webhook/1/redeliver")) == (404, "not_found")


# The notice


def test_it_is_told_before_a_row_goes(api: Api, hand: Hand, pool: db.Pool) -> None:
    api.model()
    task_id = api.create(callbackUrl="http://127.0.0.1:9/hook", expireNoticeSeconds=3600)
    hand.succeed(task_id)
    assert notice(pool, CLEANER) == 0  # kept for ever as long as nobody fetches it
    api.collect(task_id)
    assert notice(pool, CLEANER) == 0  # a day is left
    bend(pool, [int(task_id)], wake_at=ago(1))
    assert purge(pool, CLEANER, api.live.parts.storage) == 0  # not before it was told

    assert notice(pool, CLEANER) == 1
    assert notice(pool, CLEANER) == 0
    assert events_of(api, task_id) == ["task.expiring", "task.completed"]
    assert purge(pool, CLEANER, api.live.parts.storage) == 1


def test_a_task_that_runs_again_is_noticed_again(api: Api, hand: Hand, pool: db.Pool) -> None:
    api.model()
    task_id = api.create(callbackUrl="http://127.0.0.1:9/hook", expireNoticeSeconds=3600)
    hand.fail(task_id)
    assert notice(pool, CLEANER) == 1  # failed ones are kept for a minute here
    api.post(f"{task_id}/retry")
    hand.fail(task_id)
    assert notice(pool, CLEANER) == 1


# Apart from the tenant's own


def test_deliveries_are_nobodys_tasks(api: Api, hand: Hand, pool: db.Pool) -> None:
    api.model(queueLimit=2)
    task_id = api.create(callbackUrl="http://127.0.0.1:9/hook")
    hand.fail(task_id)
    (delivery,) = deliveries(api)

    assert [item["taskId"] for item in api.listed()["list"]] == [task_id]
    assert problem(api.get(delivery["id"])) == (404, "not_found")
    assert api.post("cancelBatch", {"state": 0}).json()["changed"] == 0
    assert api.collect(delivery["id"])["missing"] == [delivery["id"]]
    assert [made.get("error") for made in api.batch(*[{"modelName": "m"}] * 2)] == [None, None]
    assert problem(api.call("POST", "/task/listTask", {"tenantId": "-1"}))[0] == 422
    told = api.call("POST", "/stat/listBizStat", {}).json()["list"]
    assert sum(row["requestCount"] for row in told) == 3


def test_lanes_of_receivers_are_shown_to_admins_who_ask(api: Api) -> None:
    api.model()
    api.create(callbackUrl="http://127.0.0.1:9/hook")

    listed = api.call("POST", "/model/listModel", {"kind": "webhook"}).json()["list"]
    assert [(m["modelName"], m["kind"]) for m in listed] == [("webhook:http://127.0.0.1:9", "webhook")]
    as_user = api.of(0).call("POST", "/model/listModel", {"kind": "webhook"}).json()["list"]
    assert [m["kind"] for m in as_user] == ["model"]


def test_another_tenants_deliveries_are_not_there(api: Api, hand: Hand) -> None:
    api.model()
    task_id = api.create(callbackUrl="http://127.0.0.1:9/hook")
    hand.fail(task_id)
    (delivery,) = deliveries(api)
    other = api.of(5, "admin")

    assert deliveries(other) == deliveries(other, taskId=task_id) == []
    assert problem(other.call("POST", f"/webhook/{delivery['id']}/redeliver")) == (404, "not_found")
    assert [d["id"] for d in deliveries(other, tenantId="0")] == [delivery["id"]]


def test_receivers_beyond_a_thousand_share_a_lane(api: Api, pool: db.Pool) -> None:
    api.model(queueLimit=2000)
    many = [{"modelName": "m", "callbackUrl": f"http://127.0.0.1:{port}/"} for port in range(2000, 3005)]
    assert all("taskId" in made for made in api.batch(*many))
    api.create(callbackUrl="http://127.0.0.1:4000/")

    (row,) = all_rows(pool, "SELECT count(DISTINCT callback_lane) AS n FROM asynch_task")
    assert row["n"] == 1001
    (lanes,) = all_rows(pool, "SELECT count(*) AS n FROM asynch_models WHERE kind = 'webhook'")
    assert lanes["n"] == 1001


# What cannot be called


@pytest.mark.parametrize(
    "url",
    [
        "",
        "ftp://x/",
        "http://",
        "http://u:p@x/",
        "http://x:0/",
        "http://x/ y",
        "//x",
        "http://é/",
        "http://[",
        "a" * 3000,
    ],
)
def test_what_is_no_callback_url_is_422(api: Api, url: str) -> None:
    api.model()
    assert pointers(api.post("createTask", {"modelName": "m", "callbackUrl": url})) == ["#/callbackUrl"]


def test_a_notice_needs_somebody_to_notify(api: Api) -> None:
    api.model()
    assert problem(api.post("createTask", {"modelName": "m", "expireNoticeSeconds": 5}))[0] == 422


@pytest.mark.parametrize("host", ["10.0.0.1", "169.254.169.254", "0x7f.1", "[::1]", "2130706433"])
def test_private_addresses_are_refused_when_they_are_named(make_parts: MakeParts, host: str) -> None:
    with serving(make_parts(egress={"deny": ["127.0.0.0/8", "::1"]})) as live:
        api = Api(live)
        answer = api.call("POST", "/webhook/testDelivery", {"callbackUrl": f"http://{host}/"})
        assert pointers(answer) == ["#/callbackUrl"]


def test_a_name_that_leads_to_a_denied_address_is_never_called(api: Api, dsn: str, receiver: Receiver) -> None:
    port = receiver.url.rpartition(":")[2]
    with working(api.live, dsn, egress={"deny": ["127.0.0.0/8", "::1"]}):
        api.call("POST", "/webhook/testDelivery", {"callbackUrl": f"http://localhost:{port}/"})
        until(lambda: deliveries(api)[0]["error"], 20)

    assert deliveries(api)[0]["error"]["code"] == "egress_blocked"
    assert receiver.messages == []


# The trace it belongs to


def test_the_creators_trace_goes_to_the_model_and_to_the_receiver(
    api: Api, dsn: str, receiver: Receiver, secret: str
) -> None:
    context = {"traceparent": "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01", "tracestate": "a=b"}
    api.model(baseUrl=receiver.url, route="model")
    body = {"modelName": "m", "callbackUrl": f"{receiver.url}/hook"}
    with working(api.live, dsn):
        api.post("createTask", body, headers=context)
        until(lambda: len(receiver.messages) == 2, 20)
        api.post("createTask", body, headers={"traceparent": "nonsense"})
        until(lambda: len(receiver.messages) == 4, 20)

    assert [message.path for message in receiver.messages] == ["/model", "/hook"] * 2
    told = [{name: message.headers.get(name) for name in context} for message in receiver.messages]
    assert told == [context, context, dict.fromkeys(context), dict.fromkeys(context)]
