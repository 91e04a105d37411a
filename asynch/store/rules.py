"""Rules as rows: what is to be done with a tenant's files, each with all the versions it ever had."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from datetime import datetime
from typing import Any
from uuid import UUID

from psycopg.errors import UniqueViolation

from asynch import db
from asynch.db import Connection, Row
from asynch.errors import Conflict

ON, OFF = 1, 9


@dataclass(frozen=True, slots=True)
class RuleSpec:
    """What its owner says of a rule; each default is the contract's."""

    action_name: str
    execute_mode: int  #: 1 broker or queue, 2 webhook, 3 processor
    target_url: str  #: by mode: a topic, a URL, the name of a processor
    action_type: str = ""
    upload_id: str = ""  #: of which uploads; empty: any
    scene: str = ""  #: likewise
    trigger_condition: str = "{}"  #: JSON, its names in order
    retry_strategy: str = ""
    delay_seconds: int = 0
    after_id: int | None = None  #: the rule that must have succeeded before
    rollout_percent: int = 100
    status: int = ON
    await_result: bool = False
    timeout_seconds: int = 3600
    options: str = "{}"  #: of the processor; JSON, its names in order


@dataclass(frozen=True, slots=True)
class Rule:
    """A rule that is there."""

    id: int
    tenant_id: int
    version: int
    creator: str
    created_at: datetime
    updater: str
    updated_at: datetime
    spec: RuleSpec


@dataclass(frozen=True, slots=True)
class RuleFilter:
    """What a list may be narrowed by; None narrows nothing, a name is contained in theirs."""

    name: str | None = None
    execute_mode: int | None = None
    status: int | None = None


_SPEC = tuple(RuleSpec.__dataclass_fields__)
_DOCUMENTS = ("trigger_condition", "options")


def as_text(document: object) -> str:
    """A condition, or options, as a spec holds them: equal ones are the same text."""
    return json.dumps(document, sort_keys=True, separators=(",", ":"), ensure_ascii=False)


def _spec(values: Mapping[str, Any]) -> RuleSpec:
    """From a row, or from a version."""
    told = {name: values[name] for name in _SPEC}
    return RuleSpec(**told | {name: as_text(told[name]) for name in _DOCUMENTS})


def _rule(r: Row) -> Rule:
    return Rule(**{name: r[name] for name in Rule.__dataclass_fields__ if name != "spec"}, spec=_spec(r))


def lock_rules(conn: Connection, tenant_id: int) -> None:
    """Nobody else changes a rule of a tenant, which has a row, until this transaction ends."""
    db.one(conn, "lock_rules", tenant_id=tenant_id)


def find_stamp(conn: Connection, tenant_id: int) -> UUID | None:
    """What a tenant's rules are known by until one of them changes; None where there never was any."""
    found = db.row(conn, "find_rules_stamp", tenant_id=tenant_id)
    return None if found is None else found["rules_stamp"]


def renew_stamp(conn: Connection, tenant_id: int) -> None:
    """Have a tenant's rules known by something new: one of them changed."""
    db.run(conn, "renew_rules_stamp", tenant_id=tenant_id)


def insert_rule(conn: Connection, *, tenant_id: int, creator: str, spec: RuleSpec) -> tuple[int, int]:
    """Add a rule; its id and version. Conflict when the tenant has one of this name."""
    made = db.row(conn, "insert_rule", tenant_id=tenant_id, creator=creator, **asdict(spec))
    if made is None:
        raise _name_taken(spec.action_name)
    _keep(conn, tenant_id=tenant_id, rule_id=made["id"], version=made["version"], creator=creator, spec=spec)
    return made["id"], made["version"]


def update_rule(conn: Connection, rule: Rule, *, updater: str, spec: RuleSpec) -> int:
    """Replace what is said of a rule that nobody else changes; its new version. Conflict when its new name is taken."""
    values = asdict(spec)
    try:
        version: int = db.one(conn, "update_rule", tenant_id=rule.tenant_id, id=rule.id, updater=updater, **values)[
            "version"
        ]
    except UniqueViolation as exc:
        raise _name_taken(spec.action_name) from exc
    _keep(conn, tenant_id=rule.tenant_id, rule_id=rule.id, version=version, creator=updater, spec=spec)
    return version


def _keep(conn: Connection, *, tenant_id: int, rule_id: int, version: int, creator: str, spec: RuleSpec) -> None:
    documents = {name: json.loads(getattr(spec, name)) for name in _DOCUMENTS}
    text = json.dumps(asdict(spec) | documents, ensure_ascii=False)
    db.run(conn, "insert_rule_version", tenant_id=tenant_id, id=rule_id, version=version, creator=creator, spec=text)


def _name_taken(name: str) -> Conflict:
    return Conflict(f"A rule named {name!r} is there already.", code="rule_exists")


def delete_rule(conn: Connection, rule: Rule, *, updater: str) -> None:
    """Mark a rule as deleted; its name is free again, its versions stay."""
    db.run(conn, "delete_rule", tenant_id=rule.tenant_id, id=rule.id, updater=updater)


def find_rule(conn: Connection, *, tenant_id: int, rule_id: int) -> Rule | None:
    """A rule that was not deleted."""
    found = db.row(conn, "find_rule", tenant_id=tenant_id, id=rule_id)
    return None if found is None else _rule(found)


def find_version(conn: Connection, *, tenant_id: int, rule_id: int, version: int) -> RuleSpec | None:
    """What a version of a rule said."""
    found = db.row(conn, "find_rule_version", tenant_id=tenant_id, id=rule_id, version=version)
    return None if found is None else _spec(found["spec"])


def list_live(conn: Connection, tenant_id: int) -> list[Rule]:
    """The rules of a tenant that are on, the oldest first."""
    return [_rule(r) for r in db.rows(conn, "list_live_rules", tenant_id=tenant_id)]


def list_rules(
    conn: Connection, *, tenant_id: int, wanted: RuleFilter, limit: int, offset: int
) -> tuple[list[Rule], int]:
    """A page of a tenant's rules, newest first, and how many there are."""
    which = {"tenant_id": tenant_id, **asdict(wanted)}
    page, count = db.pipelined(
        conn, [("list_rules", {**which, "limit": limit, "offset": offset}), ("count_rules", which)]
    )
    return [_rule(r) for r in page], count[0]["total"]


def parents(conn: Connection, tenant_id: int) -> dict[int, int]:
    """Which of a tenant's rules come after another, and after which."""
    return {r["id"]: r["after_id"] for r in db.rows(conn, "parents_of_rules", tenant_id=tenant_id)}


def has_followers(conn: Connection, rule: Rule) -> bool:
    """Whether other rules come after this one."""
    followed: bool = db.one(conn, "has_followers", tenant_id=rule.tenant_id, id=rule.id)["followed"]
    return followed
