"""Whom rules give work to: models, topics with and without a broker, and receivers that post their results later."""

from __future__ import annotations

import io
import os
import socket
import sys
import uuid
from collections.abc import Iterator
from typing import Any

import kombu
import pytest
import requests
from PIL import Image

from asynch import db
from asynch.cleaner.expire import expire as expire_queue
from asynch.cleaner.unanswered import unanswered
from asynch.errors import ExecutorError, UserError
from asynch.executors.broker import BrokerExecutor, greet
from asynch.store import workers
from tests import rows
from tests.actions import acted, completed, rule, send, tries
from tests.database import all_rows
from tests.model_server import ModelServer
from tests.proxy import Proxy
from tests.receiver import Mood, Receiver
from tests.sending import fetched, file_of
from tests.task_api import CLEANER, Api, Hand, problem, put_back, working
from tests.waiting import until

pytestmark = pytest.mark.usefixtures("working_host")

BROKER = os.environ.get("TEST_BROKER_URL", "amqp://guest:guest@127.0.0.1:5672/")


#: who wants into a lane, whose lock is (its id, -1)
WAITING = "SELECT 1 FROM pg_locks WHERE locktype = 'advisory' AND objid = 4294967295 AND NOT granted"


def noted(pool: db.Pool) -> tuple[str, str]:
    """What the row of the only action says, whatever its task does."""
    (action,) = all_rows(pool, "SELECT status, error_msg FROM asynch_action")
    return action["status"], action["error_msg"]


def asks_model(api: Api, service: ModelServer, options: dict[str, Any], **fields: Any) -> str:
    """A model and a rule that has it called; the rule's id."""
    api.model("analyst", baseUrl=service.url, apiKey="X-Key:planted", **fields.pop("model", {}))
    return rule(api, "look", targetUrl="model:analyst", options=options, **fields)


# --- models ---


def test_a_models_tags_become_the_files(api: Api, dsn: str, picture: bytes, model: ModelServer) -> None:
    asks_model(api, model, {"echo": True, "tags": ["cat", "dog", "cat", 7, "x" * 65, " "]})
    with working(api.live, dsn):
        file = acted(api, completed(api, send(api, picture, tags="mine")), 1)

    assert file["tags"] == ["mine", "cat", "dog"]
    assert file["actions"][0]["status"] == "completed"
    assert file["actions"][0]["output"]["tags"][0] == "cat"
    assert file["derived"] == []
    assert api.listed()["total"] == 0


def test_a_models_labels_become_the_files_tags(api: Api, dsn: str, picture: bytes, model: ModelServer) -> None:
    asks_model(api, model, {"echo": True, "labels": [{"name": "sea", "score": 0.9}, {"score": 1}, "no", {"name": 3}]})
    with working(api.live, dsn):
        file = acted(api, completed(api, send(api, picture)), 1)

    assert file["tags"] == ["sea"]


def test_a_model_is_asked_with_the_options_and_a_link_to_the_file(
    api: Api, dsn: str, picture: bytes, model: ModelServer
) -> None:
    made = asks_model(api, model, {"echo": "request", "threshold": 0.5})
    with working(api.live, dsn):
        identity = completed(api, send(api, picture))
        output = acted(api, identity, 1)["actions"][0]["output"]

    assert ["x-key", "planted"] in [[name.lower(), value] for name, value in output["headers"]]
    (call,) = model.ledger.calls
    assert call.task_id == file_of(api, identity)["actions"][0]["task_id"]
    (logged,) = tries(api, ruleId=made)
    assert logged["outcome"] == "completed"


def test_what_a_model_makes_is_a_derived_file(api: Api, dsn: str, picture: bytes, model: ModelServer) -> None:
    asks_model(api, model, {"kind": "png", "size": 2000})
    with working(api.live, dsn):
        file = acted(api, completed(api, send(api, picture)), 1)

    (derived,) = file["derived"]
    assert derived["name"] == "a.analyst.png"
    assert file["actions"][0]["output"] == {"identity": derived["identity"]}


@pytest.mark.parametrize("answer", [b'{"tags": ["a"], "n": "a\\u0000b"}', b'{"n": "%s"}' % (b"x" * 70_000)])
def test_json_that_no_output_holds_is_a_file(
    api: Api, dsn: str, picture: bytes, receiver: Receiver, answer: bytes
) -> None:
    api.model("analyst", baseUrl=receiver.url)
    rule(api, "look", targetUrl="model:analyst")
    receiver.moods.append(Mood(headers={"Content-Type": "application/json"}, body=answer))
    with working(api.live, dsn):
        file = acted(api, completed(api, send(api, picture)), 1)

    (derived,) = file["derived"]
    assert (file["actions"][0]["status"], derived["ext"], file["tags"]) == ("completed", "json", [])
    assert fetched(api, derived["url"]) == answer


def test_a_models_limit_holds_for_actions_and_tasks_together(
    api: Api, dsn: str, model: ModelServer, picture: bytes
) -> None:
    asks_model(api, model, {"sleep": 0.2, "kind": "json"}, model={"maxConcurrency": 1})
    with working(api.live, dsn):
        sent = [send(api, picture + bytes([n])) for n in range(3)]
        made = api.batch(*[{"modelName": "analyst", "requestPayload": {"sleep": 0.2}}] * 3)
        for each in sent:
            acted(api, completed(api, each), 1)
        until(lambda: all(api.status(task["taskId"])["final"] for task in made), 20)

    assert len(model.ledger.calls) == 6
    assert model.ledger.max_open == 1


@pytest.mark.parametrize("order", [["first", "second"], ["second", "first"]])
def test_actions_enter_their_models_as_creators_do(
    api: Api, dsn: str, picture: bytes, pool: db.Pool, order: list[str]
) -> None:
    """All at once and in one order, whatever that of the rules: who counts in some of them waits for none."""
    for name in ("first", "second"):
        api.model(name)
    for name in order:
        rule(api, name, targetUrl=f"model:{name}")
    keys = [row["lane_id"] for row in all_rows(pool, "SELECT lane_id FROM asynch_models WHERE kind = 'model'")]
    keys += [row["permit_id"] for row in all_rows(pool, "SELECT permit_id FROM asynch_tenant")]
    with working(api.live, dsn):
        with db.transaction(pool) as conn:
            conn.execute("SET LOCAL lock_timeout = '500ms'")  # before the server looks for a deadlock
            for n, key in enumerate(sorted(keys)):
                conn.execute("SELECT pg_advisory_xact_lock(%s, -1)", (key,))
                if n == 0:
                    sent = send(api, picture)
                    until(lambda: all_rows(pool, WAITING))
        completed(api, sent)

    assert len(all_rows(pool, "SELECT 1 FROM asynch_action")) == 2


def test_an_action_of_a_model_waits_for_who_counts_all_of_its_tenants(
    api: Api, dsn: str, picture: bytes, pool: db.Pool
) -> None:
    api.model("analyst")
    rule(api, "look", targetUrl="model:analyst")
    with working(api.live, dsn):
        with db.transaction(pool) as conn:
            conn.execute("SELECT pg_advisory_xact_lock(permit_id, -1) FROM asynch_tenant")
            sent = send(api, picture)
            until(lambda: all_rows(pool, WAITING))
        completed(api, sent)


def test_a_models_action_is_tried_as_its_rule_says(
    api: Api, dsn: str, picture: bytes, model: ModelServer, pool: db.Pool
) -> None:
    asks_model(api, model, {"fail_times": 1, "kind": "json"}, retryStrategy="1x@1s")
    with working(api.live, dsn):
        identity = completed(api, send(api, picture))
        until(lambda: len(tries(api)) == 1, 20)
        until(lambda: put_back(pool) or len(tries(api)) == 2, 20)
        acted(api, identity, 1)

    assert [t["outcome"] for t in tries(api)] == ["completed", "failed"]


def test_an_action_whose_model_is_gone_fails(api: Api, dsn: str, picture: bytes, model: ModelServer) -> None:
    made = api.model("analyst", baseUrl=model.url)
    rule(api, "look", targetUrl="model:analyst")
    assert api.call("DELETE", f"/model/deleteModel?id={made}").status_code == 200
    with working(api.live, dsn):
        file = acted(api, completed(api, send(api, picture)), 1)

    assert (file["actions"][0]["status"], file["actions"][0]["error"]) == ("failed", "there is no model analyst")


def test_whoever_deletes_a_model_by_force_ends_its_actions(
    api: Api, dsn: str, picture: bytes, model: ModelServer, pool: db.Pool
) -> None:
    made = api.model("analyst", baseUrl=model.url)
    rule(api, "look", targetUrl="model:analyst", delaySeconds=3600)
    with working(api.live, dsn):
        identity = completed(api, send(api, picture))
    assert problem(api.call("DELETE", f"/model/deleteModel?id={made}")) == (409, "tasks_not_final")
    assert api.call("DELETE", f"/model/deleteModel?id={made}&force=true").status_code == 200

    assert has(api, identity, "failed")
    assert noted(pool) == ("failed", "cancelled by the user")


def test_whoever_deletes_a_model_during_a_call_ends_its_action(
    api: Api, dsn: str, picture: bytes, model: ModelServer, pool: db.Pool
) -> None:
    made = api.model("analyst", baseUrl=model.url)
    rule(api, "look", targetUrl="model:analyst", options={"hang": True})
    with working(api.live, dsn):
        identity = completed(api, send(api, picture))
        until(lambda: has(api, identity, "processing"), 20)
        assert api.call("DELETE", f"/model/deleteModel?id={made}&force=true").status_code == 200
        until(lambda: has(api, identity, "failed"), 20)
        until(lambda: noted(pool) == ("failed", "cancelled by the user"), 20)

    assert [t["outcome"] for t in tries(api)] == ["failed"]


def test_a_chain_acts_on_what_its_parent_made(api: Api, dsn: str, model: ModelServer) -> None:
    made = io.BytesIO()
    Image.effect_noise((900, 600), 60).save(made, "PNG")
    first = rule(api, "small", targetUrl="image.thumbnail", options={"width": 100, "height": 100})
    second = rule(api, "smaller", targetUrl="image.thumbnail", options={"width": 400, "height": 400}, after=first)
    api.model("analyst", baseUrl=model.url)
    rule(api, "look", targetUrl="model:analyst", options={"echo": True}, after=second)
    with working(api.live, dsn):
        file = acted(api, completed(api, send(api, made.getvalue())), 3)

    sizes = [Image.open(io.BytesIO(fetched(api, derived["url"]))).size for derived in file["derived"]]
    assert sizes[0] == (100, 67)
    assert sizes[-1] == (100, 67)  # of the original it would be 400 wide
    asked = file["actions"][2]["output"]
    assert asked["file"]["identity"] == file["identity"]
    assert asked["action"]["input"]["identity"] == file["derived"][-1]["identity"]


def test_a_rule_that_was_made_after_its_parents_success_fires_when_the_file_comes_again(
    api: Api, dsn: str, picture: bytes, receiver: Receiver
) -> None:
    first = rule(api, "small", options={"width": 20, "height": 20})
    with working(api.live, dsn):
        identity = completed(api, send(api, picture))
        acted(api, identity, 1)
        rule(api, "tell", executeMode=2, targetUrl=receiver.url, after=first)
        for _ in range(2):
            assert completed(api, send(api, picture)) == identity
        file = acted(api, identity, 2)

    (message,) = receiver.messages
    assert message.told["data"]["action"]["input"]["identity"] == file["derived"][0]["identity"]


def test_an_answer_that_names_a_file_leads_to_none(
    api: Api, dsn: str, picture: bytes, model: ModelServer, receiver: Receiver
) -> None:
    """Else a receiver or a model could have any file of the tenant, by guessing."""
    with working(api.live, dsn):
        secret = completed(api, send(api, picture + b"secret"))
        first = asks_model(api, model, {"echo": True, "identity": secret})
        rule(api, "tell", executeMode=2, targetUrl=receiver.url, after=first)
        acted(api, completed(api, send(api, picture)), 2)

    (message,) = receiver.messages
    assert "url" not in message.told["data"]["action"]["input"]


# --- what nobody could begin, or end ---


def test_a_receiver_that_is_too_slow_is_told_in_words(api: Api, dsn: str, picture: bytes, receiver: Receiver) -> None:
    receiver.moods.append(Mood(hangs=True))
    rule(api, "tell", executeMode=2, targetUrl=f"{receiver.url}/hook", timeoutSeconds=1, retryStrategy="1x@1h")
    with working(api.live, dsn):
        completed(api, send(api, picture))
        until(lambda: len(tries(api)) == 1, 20)

    assert tries(api)[0]["errorMsg"] == "not done in time"


def test_an_action_that_waited_too_long_has_failed_at_once(
    api: Api, dsn: str, picture: bytes, receiver: Receiver, pool: db.Pool
) -> None:
    awaiting(api, receiver, delaySeconds=3600)
    with working(api.live, dsn):
        identity = completed(api, send(api, picture))
    (action,) = file_of(api, identity)["actions"]
    rows.bend(pool, [int(action["task_id"])], wake_at=rows.ago(1))
    assert expire_queue(pool, CLEANER) == 1

    assert noted(pool) == ("failed", "waited longer in the queue than allowed")
    assert has(api, identity, "failed")


def test_an_action_whose_workers_all_died_has_failed_at_once(
    api: Api, dsn: str, picture: bytes, hand: Hand, pool: db.Pool
) -> None:
    rule(api, "thumb", delaySeconds=3600)
    with working(api.live, dsn):
        identity = completed(api, send(api, picture))
    task_id = file_of(api, identity)["actions"][0]["task_id"]
    for died, status in enumerate(("pending", "failed"), 1):
        rows.bend(pool, [int(task_id)], enqueue_at=rows.ago(1))
        hand.take(task_id)
        with db.transaction(pool) as conn:
            keep = workers.Retention(60.0, 60.0)
            workers.rescue(conn, workers=[hand.worker.id], host="h", charged=True, max_crashes=2, keep=keep, most=10)
        assert noted(pool)[0] == status
        assert len(tries(api)) == died

    assert noted(pool) == ("failed", "every worker that ran it ended abnormally")


# --- results that are posted ---


def awaiting(api: Api, receiver: Receiver, **fields: Any) -> str:
    return rule(api, "tell", executeMode=2, targetUrl=f"{receiver.url}/hook", awaitResult=True, **fields)


def has(api: Api, identity: str, status: str) -> bool:
    return [a["status"] for a in file_of(api, identity)["actions"]] == [status]


def post_result(api: Api, url: str, **told: Any) -> requests.Response:
    path = "/action/" + url.partition("/action/")[2]
    return api.live.call("POST", path, told)


def test_an_awaited_action_ends_with_its_posted_result(api: Api, dsn: str, picture: bytes, receiver: Receiver) -> None:
    first = awaiting(api, receiver)
    rule(api, "then", executeMode=1, targetUrl="after", after=first)
    with working(api.live, dsn):
        identity = completed(api, send(api, picture))
        until(lambda: has(api, identity, "awaiting"), 20)
        url = receiver.messages[0].told["data"]["result_url"]
        assert post_result(api, url, success=True, output={"tags": ["seen"], "n": 1}).status_code == 204
        file = acted(api, identity, 2)

    assert [a["status"] for a in file["actions"]] == ["completed", "completed"]
    assert file["actions"][0]["output"] == {"tags": ["seen"], "n": 1}
    assert file["tags"] == ["seen"]
    assert problem(post_result(api, url, success=True)) == (409, "result_repeated")
    assert [t["outcome"] for t in tries(api, ruleId=first)] == ["completed", "delivered"]


def test_a_result_may_say_that_it_went_wrong(api: Api, dsn: str, picture: bytes, receiver: Receiver) -> None:
    first = awaiting(api, receiver)
    rule(api, "then", executeMode=1, targetUrl="after", after=first)
    with working(api.live, dsn):
        identity = completed(api, send(api, picture))
        until(lambda: has(api, identity, "awaiting"), 20)
        url = receiver.messages[0].told["data"]["result_url"]
        assert post_result(api, url, success=False, error="no faces").status_code == 204

    (action,) = file_of(api, identity)["actions"]
    assert (action["status"], action["error"]) == ("failed", "no faces")


def test_a_result_may_come_before_its_delivery_is_noted(
    api: Api, dsn: str, picture: bytes, receiver: Receiver, pool: db.Pool
) -> None:
    awaiting(api, receiver, retryStrategy="1x@1s")
    receiver.moods.append(Mood(status=500))
    with working(api.live, dsn):
        identity = completed(api, send(api, picture))
        until(lambda: len(tries(api)) == 1, 20)
        url = receiver.messages[0].told["data"]["result_url"]
        assert post_result(api, url, success=True, output=5).status_code == 204
        until(lambda: put_back(pool) or len(receiver.messages) == 2, 20)
        until(lambda: len(tries(api)) == 3, 20)

    (action,) = file_of(api, identity)["actions"]
    assert (action["status"], action["output"]) == ("completed", 5)


def test_what_went_wrong_stays_when_it_was_posted_before_its_delivery_is_noted(
    api: Api, dsn: str, picture: bytes, receiver: Receiver, pool: db.Pool
) -> None:
    rule(api, "tell", executeMode=2, targetUrl=f"{receiver.url}/hook", retryStrategy="1x@1s")
    receiver.moods.append(Mood(status=500))
    with working(api.live, dsn):
        identity = completed(api, send(api, picture))
        until(lambda: len(tries(api)) == 1, 20)
        url = receiver.messages[0].told["data"]["result_url"]
        assert post_result(api, url, success=False, error="no faces").status_code == 204
        until(lambda: put_back(pool) or len(receiver.messages) == 2, 20)
        (action,) = acted(api, identity, 1)["actions"]

    assert (action["status"], action["error"]) == ("completed", "no faces")


def test_no_result_in_time_is_a_failure_and_a_late_one_is_refused(
    api: Api, dsn: str, picture: bytes, receiver: Receiver, pool: db.Pool
) -> None:
    awaiting(api, receiver, timeoutSeconds=1)
    with working(api.live, dsn):
        identity = completed(api, send(api, picture))
        until(lambda: has(api, identity, "awaiting"), 20)
        until(lambda: unanswered(pool, CLEANER) == 1, 10)

    (action,) = file_of(api, identity)["actions"]
    assert (action["status"], action["error"]) == ("failed", "no result came in time")
    url = receiver.messages[0].told["data"]["result_url"]
    assert problem(post_result(api, url, success=True)) == (409, "result_late")
    assert [t["outcome"] for t in tries(api)] == ["failed", "delivered"]


def test_who_is_not_waited_for_may_post_a_result_once(api: Api, dsn: str, picture: bytes, receiver: Receiver) -> None:
    rule(api, "tell", executeMode=2, targetUrl=f"{receiver.url}/hook")
    with working(api.live, dsn):
        identity = completed(api, send(api, picture))
        acted(api, identity, 1)
    url = receiver.messages[0].told["data"]["result_url"]

    assert post_result(api, url, success=True, output={"tags": ["late but good"]}).status_code == 204
    file = file_of(api, identity)
    assert (file["tags"], file["actions"][0]["status"]) == (["late but good"], "completed")
    assert problem(post_result(api, url, success=True)) == (409, "result_repeated")


@pytest.mark.parametrize(
    ("change", "body", "expected"),
    [
        (("signature=", "signature=x"), {"success": True}, (403, "link_invalid")),
        (("tenant=0", "tenant=9"), {"success": True}, (403, "link_invalid")),
        (("expires=", "expires=9"), {"success": True}, (403, "link_invalid")),
        (("", ""), {"output": 1}, (422, "invalid_input")),
        (("", ""), {"success": True, "output": "x" * 70_000}, (422, "invalid_input")),
        (("", ""), {"success": True, "output": "\0"}, (422, "invalid_input")),
        (("", ""), {"success": True, "output": 10**30}, (422, "invalid_input")),
    ],
)
def test_a_result_that_cannot_be_is_refused_and_changes_nothing(
    api: Api,
    dsn: str,
    picture: bytes,
    receiver: Receiver,
    change: tuple[str, str],
    body: dict[str, Any],
    expected: tuple[int, str],
) -> None:
    awaiting(api, receiver)
    with working(api.live, dsn):
        identity = completed(api, send(api, picture))
        until(lambda: has(api, identity, "awaiting"), 20)
    url = receiver.messages[0].told["data"]["result_url"].replace(*change)

    assert problem(post_result(api, url, **body)) == expected
    assert has(api, identity, "awaiting")


# --- topics ---


def test_without_a_broker_messages_stay_in_the_database(api: Api, dsn: str, picture: bytes, pool: db.Pool) -> None:
    rule(api, "publish", executeMode=1, targetUrl="media.new")
    with working(api.live, dsn):
        identity = completed(api, send(api, picture))
        acted(api, identity, 1)

    with db.connection(pool) as conn:
        (message,) = conn.execute(
            "DELETE FROM asynch_message m USING (SELECT tenant_id, topic, id FROM asynch_message"
            " WHERE tenant_id = 0 AND topic = 'media.new' ORDER BY id LIMIT 10 FOR UPDATE SKIP LOCKED) n"
            " WHERE (m.tenant_id, m.topic, m.id) = (n.tenant_id, n.topic, n.id) RETURNING m.*"
        ).fetchall()
    assert message["body"]["type"] == "file.completed"
    assert message["body"]["data"]["file"]["identity"] == identity
    assert str(message["id"]) == message["body"]["data"]["action"]["id"]
    assert post_result(api, message["body"]["data"]["result_url"], success=True).status_code == 204


def broker_answers() -> bool:
    with socket.socket() as probe:
        probe.settimeout(1)
        return probe.connect_ex(("127.0.0.1", 5672)) == 0


needs_broker = pytest.mark.skipif(not broker_answers(), reason="wants a real RabbitMQ on 127.0.0.1:5672")


@pytest.fixture
def topic() -> Iterator[str]:
    name = f"asynch.tests.{uuid.uuid4().hex[:12]}"
    yield name
    with kombu.Connection(BROKER) as connection:
        connection.channel().queue_delete(name)


def taken(topic: str, count: int) -> list[Any]:
    """So many messages of a topic, and no more."""
    with kombu.Connection(BROKER) as connection, connection.SimpleQueue(topic) as queue:
        found = []
        for _ in range(count):
            message = queue.get(timeout=20)
            message.ack()
            found.append(message)
        assert queue.qsize() == 0
        return found


@needs_broker
def test_a_broker_gets_each_message_with_its_id(api: Api, dsn: str, picture: bytes, topic: str) -> None:
    rule(api, "publish", executeMode=1, targetUrl=topic)
    with working(api.live, dsn, broker={"url": BROKER}):
        identity = completed(api, send(api, picture))
        (action,) = acted(api, identity, 1)["actions"]

    (message,) = taken(topic, 1)
    assert message.payload["data"]["file"]["identity"] == identity
    assert message.properties["message_id"] == f"msg_{action['task_id']}"
    assert message.properties["delivery_mode"] == 2


@needs_broker
def test_a_queue_that_is_there_is_taken_as_it_is(api: Api, dsn: str, picture: bytes, topic: str) -> None:
    with kombu.Connection(BROKER) as connection:
        connection.channel().queue_declare(topic, durable=True, auto_delete=False, arguments={"x-max-priority": 5})
    rule(api, "publish", executeMode=1, targetUrl=topic)
    with working(api.live, dsn, broker={"url": BROKER}):
        file = acted(api, completed(api, send(api, picture)), 1)

    assert file["actions"][0]["status"] == "completed"


@needs_broker
def test_a_message_that_its_full_queue_does_not_take_is_published_later(
    api: Api, dsn: str, picture: bytes, topic: str, pool: db.Pool, caplog: pytest.LogCaptureFixture
) -> None:
    full = {"x-max-length": 1, "x-overflow": "reject-publish"}
    with kombu.Connection(BROKER) as connection:
        channel = connection.channel()
        channel.queue_declare(topic, durable=True, auto_delete=False, arguments=full)
        kombu.Producer(channel, auto_declare=False).publish("in the way", exchange="", routing_key=topic)
    rule(api, "publish", executeMode=1, targetUrl=topic, retryStrategy="5x@1s")
    with working(api.live, dsn, broker={"url": BROKER}):
        identity = completed(api, send(api, picture))
        until(lambda: len(tries(api)) == 1, 30)
        with kombu.Connection(BROKER) as connection:
            assert connection.channel().queue_purge(topic) == 1
        until(lambda: (put_back(pool) and False) or len(tries(api, outcome="completed")) == 1, 30)
        acted(api, identity, 1)

    assert tries(api)[-1]["errorMsg"] == "the broker did not take the message: its queue may be full"
    assert [record for record in caplog.records if record.levelname == "ERROR"] == []
    with kombu.Connection(BROKER) as connection:
        assert connection.channel().queue_purge(topic) == 1


@needs_broker
def test_a_broker_that_is_down_for_a_while_loses_nothing(
    api: Api, dsn: str, picture: bytes, topic: str, pool: db.Pool
) -> None:
    rule(api, "publish", executeMode=1, targetUrl=topic)
    with Proxy(("127.0.0.1", 5672)) as proxy:
        proxy.refuse()
        with working(api.live, dsn, broker={"url": BROKER.replace("5672", str(proxy.port))}):
            identities = [completed(api, send(api, picture + bytes([n]))) for n in range(3)]
            until(lambda: len(tries(api)) == 3, 30)
            proxy.accept()
            until(lambda: (put_back(pool) and False) or len(tries(api, outcome="completed")) == 3, 30)
            for identity in identities:
                acted(api, identity, 1)

    told = [message.payload["data"]["file"]["identity"] for message in taken(topic, 3)]
    assert sorted(told) == sorted(identities)
    assert "guest" not in str(tries(api))


@needs_broker
def test_a_broker_that_hangs_is_given_up_in_time_and_asked_again(
    api: Api, dsn: str, picture: bytes, topic: str, pool: db.Pool
) -> None:
    rule(api, "publish", executeMode=1, targetUrl=topic, timeoutSeconds=2, retryStrategy="5x@1s")
    with Proxy(("127.0.0.1", 5672)) as proxy:
        proxy.stall()
        with working(api.live, dsn, broker={"url": BROKER.replace("5672", str(proxy.port))}):
            identity = completed(api, send(api, picture))
            until(lambda: len(tries(api)) == 1, 30)
            proxy.resume()
            until(lambda: (put_back(pool) and False) or len(tries(api, outcome="completed")) == 1, 30)
            acted(api, identity, 1)

    assert len(taken(topic, 1)) == 1


def test_no_worker_starts_with_a_broker_and_nothing_to_reach_it_with(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "kombu", None)
    with pytest.raises(UserError, match="asynch\\[broker\\]"):
        BrokerExecutor(BROKER)


def test_a_broker_of_no_known_kind_is_the_operators_mistake() -> None:
    with pytest.raises(UserError, match=r"^broker.url: nonsense://"):
        BrokerExecutor("nonsense://user:planted@host/")


@needs_broker
def test_what_a_broker_refuses_names_no_secret() -> None:
    with pytest.raises(ExecutorError) as caught:
        greet(BROKER.replace("guest:guest", "guest:planted"))
    assert "ACCESS_REFUSED" in caught.value.detail
    assert "planted" not in str(caught.value)
