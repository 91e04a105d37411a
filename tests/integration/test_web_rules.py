"""/preAction on a live service: rules are made, changed, tried and taken back, and every version is kept."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
import requests

from asynch import db
from asynch.domain.rules import FileFacts
from asynch.service import rules as service
from asynch.service.rules import live_rules
from asynch.store import files
from asynch.store import rules as store
from asynch.web.rule_bodies import MAX_OPTIONS
from tests.database import all_rows
from tests.live import Live, MakeParts, serving

COVER = {"executeMode": 3, "targetUrl": "video.cover"}
HOOK = {"executeMode": 2, "targetUrl": "https://example.com/done"}
TOPIC = {"executeMode": 1, "targetUrl": "files.new"}
DEFAULTS = {
    "actionType": "", "uploadId": "", "scene": "", "triggerCondition": {}, "retryStrategy": "", "delaySeconds": 0,
    "after": None, "rolloutPercent": 100, "version": 1, "status": 1, "awaitResult": False, "timeoutSeconds": 3600,
    "options": {},
}  # fmt: skip
STORED = files.NewFile(
    creator="u", sha256="5" * 64, name="Film.MP4", ext="mp4", content_type="video/mp4", size=2000, stored_size=1000,
    key="k", scene="lesson", upload_id="cam-1", tags=("red", "blue"),
)  # fmt: skip
OTHER_TENANT = {"X-User-Info": '{"tenantId": 8, "userName": "eve", "role": "admin"}'}


def post(live: Live, call: str, body: Any, **options: Any) -> requests.Response:
    return live.call("POST", f"/preAction/{call}", body, **options)


def create(live: Live, name: str = "r", /, **fields: Any) -> str:
    answer = post(live, "createPreAction", {"actionName": name, **COVER, **fields})
    assert answer.status_code == 200, answer.text
    made: str = answer.json()["id"]
    return made


def change(live: Live, rule: str, **fields: Any) -> requests.Response:
    return live.call("PUT", "/preAction/updatePreAction", {"id": rule, **fields})


def changed(live: Live, rule: str, **fields: Any) -> int:
    answer = change(live, rule, **fields)
    assert answer.status_code == 200, answer.text
    version: int = answer.json()["version"]
    return version


def get(live: Live, rule: str) -> dict[str, Any]:
    answer = live.call("GET", "/preAction/getPreAction", params={"id": rule})
    assert answer.status_code == 200, answer.text
    found: dict[str, Any] = answer.json()
    return found


def pointers(answer: requests.Response) -> set[str]:
    """Where the mistakes of a refused request are."""
    assert answer.status_code == 422, answer.text
    return {error["pointer"] for error in answer.json()["errors"]}


def refused(live: Live, **fields: Any) -> set[str]:
    return pointers(post(live, "createPreAction", {"actionName": "r", **COVER, **fields}))


def test_a_rule_has_the_contracts_defaults(live: Live) -> None:
    rule = get(live, create(live))

    assert {name: rule[name] for name in DEFAULTS} == DEFAULTS


def test_a_rule_is_told_as_it_was_given(live: Live) -> None:
    given = {
        "actionName": "covers", "actionType": "media", "uploadId": "cam-1", "scene": "lesson",
        "triggerCondition": {"mime": ["video/*"], "size_gt": "1MiB", "derived": True}, "executeMode": 3,
        "targetUrl": "image.thumbnail", "retryStrategy": "5x@10s..10min", "delaySeconds": 5, "after": create(live, "first"),
        "rolloutPercent": 25, "status": 9, "awaitResult": False, "timeoutSeconds": 60, "options": {"width": 100},
    }  # fmt: skip
    answer = post(live, "createPreAction", given, headers={"X-User-Info": '{"tenantId": 0, "userName": "ann"}'})

    rule = get(live, answer.json()["id"])
    assert answer.json()["version"] == 1
    assert {name: rule[name] for name in given} == given
    assert (rule["creator"], rule["modifier"]) == ("ann", "ann")


def test_null_is_as_good_as_absent(live: Live) -> None:
    rule = create(live, scene="s", **dict.fromkeys(("after", "options", "status", "retryStrategy")))

    assert changed(live, rule, scene=None, status=None, actionName=None) == 1
    assert get(live, rule)["scene"] == "s"


def test_a_name_is_given_once_in_a_tenant(live: Live) -> None:
    create(live)
    again = post(live, "createPreAction", {"actionName": "r", **COVER})
    renamed = change(live, create(live, "other"), actionName="r")
    elsewhere = post(live, "createPreAction", {"actionName": "r", **COVER}, headers=OTHER_TENANT)

    assert (again.status_code, again.json()["code"]) == (409, "rule_exists")
    assert (renamed.status_code, renamed.json()["code"]) == (409, "rule_exists")
    assert elsewhere.status_code == 200


def test_a_deleted_rule_is_gone_and_its_name_free(live: Live) -> None:
    rule = create(live)

    assert live.call("DELETE", "/preAction/deletePreAction", params={"id": rule}).json() == {"id": rule}
    assert live.call("GET", "/preAction/getPreAction", params={"id": rule}).status_code == 404
    assert live.call("DELETE", "/preAction/deletePreAction", params={"id": rule}).status_code == 404
    assert change(live, rule, scene="s").status_code == 404
    assert create(live) != rule


def test_another_tenants_rule_is_not_there(live: Live) -> None:
    rule = create(live)
    asked = [
        live.call("GET", f"/preAction/getPreAction?id={rule}", headers=OTHER_TENANT),
        live.call("PUT", "/preAction/updatePreAction", {"id": rule, "scene": "x"}, headers=OTHER_TENANT),
        live.call("DELETE", f"/preAction/deletePreAction?id={rule}", headers=OTHER_TENANT),
        post(live, "rollback", {"id": rule, "version": 1}, headers=OTHER_TENANT),
        post(live, "testPreAction", {"id": rule, "file": {}}, headers=OTHER_TENANT),
    ]

    assert [answer.status_code for answer in asked] == [404] * 5
    after = {"actionName": "r", **COVER, "after": rule}
    assert pointers(post(live, "createPreAction", after, headers=OTHER_TENANT)) == {"#/after"}
    assert post(live, "listPreAction", {}, headers=OTHER_TENANT).json() == {"list": [], "total": 0}
    assert post(live, "testPreAction", {"file": {}}, headers=OTHER_TENANT).json() == {"list": []}
    assert get(live, rule)["version"] == 1


def test_a_list_is_narrowed_and_newest_first(live: Live) -> None:
    create(live, "a%1")
    create(live, "a_2", status=9)
    create(live, "b", **HOOK)

    def names(**asked: Any) -> list[str]:
        told = post(live, "listPreAction", asked).json()
        assert told["total"] >= len(told["list"])
        return [rule["actionName"] for rule in told["list"]]

    assert names() == ["b", "a_2", "a%1"]
    assert names(actionName="a") == ["a_2", "a%1"]
    assert names(actionName="%") == ["a%1"]
    assert names(executeMode=2) == ["b"]
    assert names(status=9) == ["a_2"]
    assert names(page={"pageNum": 2, "pageSize": 2}) == ["a%1"]


def test_each_change_is_a_version_and_no_change_is_none(live: Live) -> None:
    rule = create(live)

    assert changed(live, rule, triggerCondition={"ext": "mp4", "size_lt": 5}) == 2
    assert changed(live, rule, triggerCondition={"size_lt": 5, "ext": "mp4"}) == 2
    assert changed(live, rule, status=9) == 3
    assert changed(live, rule, rolloutPercent=50) == 4
    assert changed(live, rule, rolloutPercent=50) == 4
    assert get(live, rule)["version"] == 4


def test_every_version_is_kept_as_it_was(live: Live, pool: db.Pool) -> None:
    rule = create(live, triggerCondition={"ext": "mp4"})
    changed(live, rule, triggerCondition={}, scene="s")

    kept = all_rows(pool, "SELECT version, spec FROM asynch_pre_action_version ORDER BY version")
    assert [(r["version"], r["spec"]["trigger_condition"], r["spec"]["scene"]) for r in kept] == [
        (1, {"ext": "mp4"}, ""),
        (2, {}, "s"),
    ]


def test_a_rollback_is_a_new_version_that_says_what_the_earlier_one_said(live: Live) -> None:
    rule = create(live, triggerCondition={"ext": "mp4"}, rolloutPercent=10)
    first = get(live, rule)
    changed(live, rule, actionName="q", triggerCondition={}, rolloutPercent=100, after=create(live, "x"), **TOPIC)

    answer = post(live, "rollback", {"id": rule, "version": 1})

    assert answer.json() == {"id": rule, "version": 3}
    ever_new = ("version", "updatedAt")
    assert {k: v for k, v in get(live, rule).items() if k not in ever_new} == {
        k: v for k, v in first.items() if k not in ever_new
    }


def test_a_rollback_to_what_is_said_now_changes_nothing(live: Live) -> None:
    rule = create(live)

    assert post(live, "rollback", {"id": rule, "version": 1}).json()["version"] == 1


def test_a_version_that_never_was_cannot_come_back(live: Live) -> None:
    rule = create(live)

    assert post(live, "rollback", {"id": rule, "version": 2}).status_code == 404
    assert pointers(post(live, "rollback", {"id": rule, "version": 0})) == {"#/version"}


def test_a_rollback_is_judged_as_a_change_is(live: Live) -> None:
    parent = create(live, "parent")
    rule = create(live, "child", after=parent)
    changed(live, rule, after="", actionName="renamed")
    assert live.call("DELETE", f"/preAction/deletePreAction?id={parent}").status_code == 200
    without_parent = post(live, "rollback", {"id": rule, "version": 1})
    other = create(live, "taken")
    changed(live, other, actionName="free")
    create(live, "taken")

    assert pointers(without_parent) == {"#/version"}
    assert post(live, "rollback", {"id": other, "version": 1}).json()["code"] == "rule_exists"


def test_no_version_is_lost_when_many_change_a_rule_at_once(live: Live, pool: db.Pool) -> None:
    rule = create(live)
    with ThreadPoolExecutor(8) as threads:
        told = list(threads.map(lambda n: requests.put(
            f"{live.url}/preAction/updatePreAction", json={"id": rule, "delaySeconds": n}, timeout=30
        ).json()["version"], range(1, 17)))  # fmt: skip

    assert sorted(told) == list(range(2, 18))
    kept = all_rows(pool, "SELECT version, spec->>'delay_seconds' AS delay FROM asynch_pre_action_version ORDER BY 1")
    assert [r["version"] for r in kept] == list(range(1, 18))
    assert sorted(int(r["delay"]) for r in kept) == list(range(17))
    assert int(kept[-1]["delay"]) == get(live, rule)["delaySeconds"]


def test_changes_of_different_members_at_once_are_both_kept(live: Live) -> None:
    rule = create(live)
    fields = [{"scene": "s"}, {"delaySeconds": 5}, {"rolloutPercent": 7}, {"actionType": "t"}]
    with ThreadPoolExecutor(4) as threads:
        list(threads.map(lambda given: requests.put(
            f"{live.url}/preAction/updatePreAction", json={"id": rule, **given}, timeout=30
        ), fields))  # fmt: skip

    told = get(live, rule)
    assert (told["scene"], told["delaySeconds"], told["rolloutPercent"], told["actionType"]) == ("s", 5, 7, "t")
    assert told["version"] == 5


def test_every_mistake_is_told_at_its_place(live: Live) -> None:
    wrong = {
        "triggerCondition": {"colour": "red", "tags_any": ["a", 1]}, "retryStrategy": "often", "after": "12345",
        "options": {"at": "soon", "unknown": 1},
    }  # fmt: skip

    assert refused(live, **wrong) >= {
        "#/triggerCondition/colour", "#/triggerCondition/tags_any/1", "#/retryStrategy", "#/after", "#/options/unknown",
    }  # fmt: skip


@pytest.mark.parametrize(
    ("fields", "pointer"),
    [
        ({"actionName": ""}, "#/actionName"), ({"actionName": "x" * 129}, "#/actionName"),
        ({"actionName": "a\0"}, "#/actionName"), ({"actionType": "x" * 65}, "#/actionType"),
        ({"executeMode": 0}, "#/executeMode"), ({"executeMode": 4}, "#/executeMode"),
        ({"executeMode": True}, "#/executeMode"), ({"executeMode": "3"}, "#/executeMode"),
        ({"status": 0}, "#/status"), ({"status": True}, "#/status"), ({"rolloutPercent": 101}, "#/rolloutPercent"),
        ({"rolloutPercent": -1}, "#/rolloutPercent"), ({"rolloutPercent": 0.5}, "#/rolloutPercent"),
        ({"delaySeconds": 604801}, "#/delaySeconds"), ({"timeoutSeconds": 0}, "#/timeoutSeconds"),
        ({"after": "first"}, "#/after"), ({"after": 0}, "#/after"), ({"after": -1}, "#/after"), ({"after": []}, "#/after"),
        ({"after": 2**63}, "#/after"), ({"awaitResult": 1}, "#/awaitResult"), ({"triggerCondition": []}, "#/triggerCondition"),
        ({"triggerCondition": "{}"}, "#/triggerCondition"), ({"triggerCondition": {"a\0": 1}}, "#/triggerCondition"),
        ({"triggerCondition": {"name": ["x" * 250] * 100}}, "#/triggerCondition"),
        ({"triggerCondition": {"size_lt": 10**30}}, "#/triggerCondition"), ({"options": {"x": "y" * 4096}}, "#/options"),
        ({"options": {"\ud800": 1}}, "#/options"), ({"options": {"a": [{"b": "\0"}]}}, "#/options"),
        ({"options": {"a": 10**400}}, "#/options"), ({"options": {"a": 2**64}}, "#/options"),
        ({"options": {"width": "wide"}, "targetUrl": "image.thumbnail"}, "#/options/width"),
        ({"retryStrategy": "21x@5s"}, "#/retryStrategy"), ({"retryStrategy": "3x@0s"}, "#/retryStrategy"),
        ({"colour": 1}, "#/colour"), ({"targetUrl": "video.unknown"}, "#/targetUrl"),
        ({"targetUrl": "model:unknown"}, "#/targetUrl"), ({"targetUrl": "model:"}, "#/targetUrl"),
        ({**TOPIC, "targetUrl": "a b"}, "#/targetUrl"), ({**TOPIC, "targetUrl": "a\n"}, "#/targetUrl"),
        ({**TOPIC, "targetUrl": "x" * 129}, "#/targetUrl"), ({**TOPIC, "options": {"a": 1}}, "#/options"),
        ({**HOOK, "targetUrl": "example.com"}, "#/targetUrl"), ({**HOOK, "targetUrl": "ftp://x"}, "#/targetUrl"),
        ({**HOOK, "targetUrl": "http://169.254.169.254/"}, "#/targetUrl"),
        ({**HOOK, "targetUrl": "http://u:p@example.com/"}, "#/targetUrl"), ({**HOOK, "options": {"a": 1}}, "#/options"),
    ],
)  # fmt: skip
def test_a_wrong_member_is_refused_at_its_place(live: Live, fields: dict[str, Any], pointer: str) -> None:
    assert refused(live, **fields) == {pointer}
    assert post(live, "listPreAction", {}).json()["total"] == 0


def test_trying_rules_tells_which_other_must_have_succeeded_before(live: Live) -> None:
    first = create(live, "first", triggerCondition={"ext": "png"})
    create(live, "second", after=first)

    told = post(live, "testPreAction", {"file": {"ext": "jpg"}}).json()["list"]
    assert [(rule["after"], rule["matches"]) for rule in told] == [(None, False), (first, True)]


def test_only_who_is_told_where_to_post_a_result_can_be_waited_for(live: Live, pool: db.Pool) -> None:
    assert refused(live, awaitResult=True) == {"#/awaitResult"}
    rule = create(live, **TOPIC, awaitResult=True)
    assert get(live, rule)["awaitResult"] is True
    assert pointers(change(live, rule, **COVER)) == {"#/awaitResult"}

    assert changed(live, rule, **COVER, awaitResult=False) == 2
    assert pointers(change(live, rule, awaitResult=True)) == {"#/awaitResult"}


def test_a_rule_of_before_that_waits_for_nothing_can_be_turned_off(live: Live, pool: db.Pool) -> None:
    rule = create(live)
    with db.connection(pool) as conn:
        conn.execute("UPDATE asynch_pre_action SET await_result = true")

    assert changed(live, rule, status=9) == 2
    assert changed(live, rule, awaitResult=False) == 3


@pytest.mark.parametrize(
    ("name", "detail"), [("", "expected at least 1 character"), ("x" * 129, "expected at most 128 characters")]
)
def test_the_length_of_a_text_is_told_in_characters(live: Live, name: str, detail: str) -> None:
    answer = post(live, "createPreAction", {**COVER, "actionName": name})

    assert [error["detail"] for error in answer.json()["errors"]] == [detail]


def test_a_condition_cannot_break_out_of_its_statement(live: Live) -> None:
    hostile = "'; DROP TABLE asynch_pre_action; -- %(x)s {} \\"
    rule = create(live, hostile, scene=hostile, triggerCondition={"name": [hostile, "[!a-", "[", "*" * 200]})

    assert get(live, rule)["triggerCondition"]["name"][0] == hostile
    assert len(post(live, "testPreAction", {"file": {"name": hostile, "scene": hostile}}).json()["list"]) == 1


def test_a_topic_and_a_url_are_targets(live: Live) -> None:
    assert get(live, create(live, "topic", **TOPIC))["targetUrl"] == "files.new"
    assert get(live, create(live, "hook", **HOOK | {"targetUrl": "https://example.com/x?y#z"}))["targetUrl"] == (
        "https://example.com/x?y"
    )


def test_a_models_rule_needs_the_model_when_it_is_saved_and_turned_on(live: Live) -> None:
    model = live.call("POST", "/model/createModel", {"modelName": "tagger", "baseUrl": "http://127.0.0.1:9"}).json()[
        "id"
    ]
    rule = create(live, executeMode=3, targetUrl="model:tagger", options={"anything": [1]})
    assert live.call("DELETE", f"/model/deleteModel?id={model}").status_code == 200

    assert changed(live, rule, status=9) == 2
    assert pointers(change(live, rule, status=1)) == {"#/targetUrl"}


def test_changed_options_are_judged_by_the_processor(live: Live) -> None:
    rule = create(live, targetUrl="image.thumbnail", options={"width": 100})

    assert pointers(change(live, rule, options={"width": -1})) == {"#/options/width"}
    assert pointers(change(live, rule, targetUrl="media.probe")) == {"#/options/width"}
    assert changed(live, rule, targetUrl="media.probe", options={}) == 2


def test_options_have_a_limit_in_bytes(live: Live) -> None:
    live.call("POST", "/model/createModel", {"modelName": "m", "baseUrl": "http://127.0.0.1:9"})
    whole = MAX_OPTIONS - len('{"a":""}')

    create(live, targetUrl="model:m", options={"a": "x" * whole})
    assert refused(live, targetUrl="model:m", options={"a": "é" * (whole // 2 + 1)}) == {"#/options"}


def test_a_rule_cannot_come_after_itself(live: Live) -> None:
    a = create(live, "a")
    b = create(live, "b", after=a)
    c = create(live, "c", after=b)

    assert pointers(change(live, a, after=a)) == {"#/after"}
    assert pointers(change(live, a, after=c)) == {"#/after"}
    assert changed(live, c, after=a) == 2
    assert changed(live, c, after="") == 3
    assert get(live, c)["after"] is None


def test_two_rules_cannot_be_put_after_each_other_at_once(live: Live) -> None:
    pairs = [(create(live, f"a{n}"), create(live, f"b{n}")) for n in range(4)]
    for a, b in pairs:
        with ThreadPoolExecutor(2) as threads:
            answers = list(threads.map(lambda pair: requests.put(
                f"{live.url}/preAction/updatePreAction", json={"id": pair[0], "after": pair[1]}, timeout=30
            ).status_code, [(a, b), (b, a)]))  # fmt: skip
        assert sorted(answers) == [200, 422]


def test_at_most_eight_rules_come_one_after_the_other(live: Live) -> None:
    chain = [create(live, "1")]
    for n in range(2, 9):
        chain.append(create(live, str(n), after=chain[-1]))
    head = create(live, "0")

    assert refused(live, after=chain[-1]) == {"#/after"}
    assert pointers(change(live, chain[0], after=head)) == {"#/after"}
    changed(live, chain[-1], after="")
    assert changed(live, chain[0], after=head) == 2


def test_a_rule_that_others_come_after_stays(live: Live) -> None:
    a = create(live, "a")
    b = create(live, "b", after=a)
    refusal = live.call("DELETE", f"/preAction/deletePreAction?id={a}")

    assert (refusal.status_code, refusal.json()["code"]) == (409, "rule_followed")
    assert live.call("DELETE", f"/preAction/deletePreAction?id={b}").status_code == 200
    assert live.call("DELETE", f"/preAction/deletePreAction?id={a}").status_code == 200


def test_a_stored_file_is_told_each_condition(live: Live, pool: db.Pool) -> None:
    with db.transaction(pool) as conn:
        identity = str(files.insert_file(conn, tenant_id=0, file=STORED).id)
    rule = create(live, scene="lesson", uploadId="cam-2", triggerCondition={"mime": "VIDEO/*", "size_gt": "2KiB"})

    (told,) = post(live, "testPreAction", {"identity": identity}).json()["list"]

    assert told == {
        "id": rule, "actionName": "r", "version": 1, "after": None, "matches": False, "rollout": True,
        "checks": [
            {"operator": "uploadId", "wanted": "cam-2", "found": "cam-1", "holds": False},
            {"operator": "scene", "wanted": "lesson", "found": "lesson", "holds": True},
            {"operator": "size_gt", "wanted": "2KiB", "found": 2000, "holds": False},
            {"operator": "mime", "wanted": "VIDEO/*", "found": "video/mp4", "holds": True},
        ],
    }  # fmt: skip


def test_a_file_that_might_be_is_told_too(live: Live) -> None:
    create(live, triggerCondition={"tags_all": ["a"], "name": "*.png"})
    file = {"name": "X.PNG", "size": 1, "contentType": "image/png", "ext": "png", "tags": ["a"], "derived": True}

    (sent,) = post(live, "testPreAction", {"file": {**file, "derived": False}}).json()["list"]
    (derived,) = post(live, "testPreAction", {"file": file}).json()["list"]

    assert sent["matches"]
    assert not derived["matches"]
    assert derived["checks"][-1] == {"operator": "derived", "wanted": False, "found": True, "holds": False}


def test_a_test_is_about_the_rules_that_are_on_or_the_named_one(live: Live) -> None:
    on, off = create(live, "on"), create(live, "off", status=9)

    assert [told["id"] for told in post(live, "testPreAction", {"file": {}}).json()["list"]] == [on]
    (told,) = post(live, "testPreAction", {"file": {}, "id": off}).json()["list"]
    assert (told["id"], told["matches"]) == (off, False)
    assert told["checks"] == [{"operator": "status", "wanted": 1, "found": 9, "holds": False}]


def test_a_rollout_is_told_where_it_is_known(live: Live) -> None:
    rule = create(live, rolloutPercent=50)

    def rollout() -> object:
        return post(live, "testPreAction", {"file": {}}).json()["list"][0]["rollout"]

    assert rollout() is None
    changed(live, rule, rolloutPercent=0)
    assert rollout() is False
    changed(live, rule, rolloutPercent=100)
    assert rollout() is True


@pytest.mark.parametrize("body", [{}, {"identity": "1", "file": {}}, {"identity": None, "file": None}, {"file": 1}])
def test_a_test_names_one_file(live: Live, body: dict[str, Any]) -> None:
    assert post(live, "testPreAction", body).status_code == 422


def test_a_test_of_no_file_is_not_found(live: Live) -> None:
    assert post(live, "testPreAction", {"identity": "12345"}).status_code == 404


def test_rules_are_for_admins(live: Live) -> None:
    user = {"X-User-Info": '{"tenantId": 0, "userName": "bob", "role": "user"}'}
    rule = create(live)
    asked = [
        post(live, "createPreAction", {"actionName": "x", **COVER}, headers=user),
        live.call("PUT", "/preAction/updatePreAction", {"id": rule, "scene": "x"}, headers=user),
        live.call("DELETE", f"/preAction/deletePreAction?id={rule}", headers=user),
        live.call("GET", f"/preAction/getPreAction?id={rule}", headers=user),
        post(live, "listPreAction", {}, headers=user),
        post(live, "testPreAction", {"file": {}}, headers=user),
        post(live, "rollback", {"id": rule, "version": 1}, headers=user),
    ]

    assert [answer.status_code for answer in asked] == [403] * 7


def test_every_change_is_in_the_op_log_and_no_refusal_is(live: Live) -> None:
    rule = create(live)
    changed(live, rule, scene="s")
    change(live, rule, retryStrategy="no")
    post(live, "rollback", {"id": rule, "version": 1})
    live.call("DELETE", f"/preAction/deletePreAction?id={rule}")

    told = live.call("POST", "/opLog/listOpLog", {"opType": "PreAction"}).json()["list"]
    assert [(op["opType"], op["bizName"], op["success"]) for op in told] == [
        ("deletePreAction", "r", 1), ("rollbackPreAction", "r", 1), ("updatePreAction", "r", 1), ("createPreAction", "r", 1),
    ]  # fmt: skip


def test_who_keeps_rules_has_the_right_ones_after_every_change(live: Live, pool: db.Pool) -> None:
    def kept() -> list[tuple[str, int]]:
        with db.connection(pool) as conn:
            return [(rule.spec.action_name, rule.version) for rule in live_rules(conn, 0)]

    assert kept() == []
    rule = create(live, "r")
    assert kept() == [("r", 1)]
    changed(live, rule, scene="s")
    assert kept() == [("r", 2)]
    changed(live, rule, status=9)
    assert kept() == []
    post(live, "rollback", {"id": rule, "version": 2})
    assert kept() == [("r", 4)]
    live.call("DELETE", f"/preAction/deletePreAction?id={rule}")
    assert kept() == []


def test_rules_that_are_kept_are_not_read_again(live: Live, pool: db.Pool) -> None:
    create(live, "r")
    with db.connection(pool) as conn:
        first = live_rules(conn, 0)
        assert live_rules(conn, 0) is first


def test_the_live_rules_are_those_that_are_on_and_there(live: Live, pool: db.Pool) -> None:
    on, off, gone = create(live, "on"), create(live, "off", status=9), create(live, "gone")
    live.call("DELETE", f"/preAction/deletePreAction?id={gone}")
    post(live, "createPreAction", {"actionName": "foreign", **COVER}, headers=OTHER_TENANT)
    with db.connection(pool) as conn:
        assert [str(rule.id) for rule in store.list_live(conn, 0)] == [on]
    changed(live, off, status=1)
    with db.connection(pool) as conn:
        assert [str(rule.id) for rule in store.list_live(conn, 0)] == [on, off]


def test_a_file_meets_the_rules_whose_scene_upload_and_condition_fit(live: Live, pool: db.Pool) -> None:
    create(live, "any")
    create(live, "scene", scene="lesson")
    create(live, "other scene", scene="exam")
    create(live, "upload", uploadId="cam-1")
    create(live, "other upload", uploadId="cam-2")
    create(live, "films", triggerCondition={"mime": "video/*"})
    create(live, "pictures", triggerCondition={"mime": "image/*"})
    create(live, "nobody", rolloutPercent=0)
    with db.transaction(pool) as conn:
        identity = files.insert_file(conn, tenant_id=0, file=STORED).id
        row = files.find_file(conn, tenant_id=0, file_id=identity)
        rules = store.list_live(conn, 0)
    assert row is not None

    met = service.matching(rules, service.facts_of(row), str(identity))
    assert [rule.spec.action_name for rule in met] == ["any", "scene", "upload", "films"]


def test_what_is_explained_is_what_happens(live: Live, pool: db.Pool) -> None:
    create(live, "half", rolloutPercent=50, triggerCondition={"size_gt": 10})
    create(live, "derived", triggerCondition={"derived": True, "ext": ["mp4"]})
    with db.connection(pool) as conn:
        rules = store.list_live(conn, 0)
    for n in range(100):
        facts = FileFacts(size=n, ext="MP4" if n % 2 else "png", is_derived=n % 3 == 0)
        verdicts = [service.verdict(rule, facts, str(n)) for rule in rules]
        assert [v.rule for v in verdicts if v.matches and v.rollout] == service.matching(rules, facts, str(n))


def test_an_admin_sees_the_rules_of_a_tenant_they_name(make_parts: MakeParts) -> None:
    with serving(make_parts()) as live:
        create(live)

        assert post(live, "listPreAction", {"tenantId": 0}, headers=OTHER_TENANT).json()["total"] == 1
