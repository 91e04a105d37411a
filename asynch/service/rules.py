"""Rules on files: changed and tried by admins, each change with its op log row; and which of them a file meets."""

from __future__ import annotations

import json
import threading
from collections import OrderedDict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any
from uuid import UUID

from pydantic.alias_generators import to_camel

from asynch import db
from asynch.db import Connection, Pool, Row
from asynch.domain.principal import Caller, Principal
from asynch.domain.redact import redacted
from asynch.domain.rules import Check, Condition, FileFacts, compiled, in_rollout
from asynch.errors import Conflict, InvalidInput, Mistake, NotFound
from asynch.service.rule_specs import Checks
from asynch.service.webhooks import Webhooks
from asynch.store import files, tenants
from asynch.store import rules as store
from asynch.store.oplog import Operation, insert_op_logs
from asynch.store.rules import ON, Rule, RuleFilter, RuleSpec, as_text

_DOCUMENTS = ("trigger_condition", "options")


def facts_of(file: Row) -> FileFacts:
    """What rules may ask of a stored file."""
    return FileFacts(
        name=file["name"],
        ext=file["ext"],
        content_type=file["content_type"],
        size=file["size"],
        tags=frozenset(file["tags"]),
        scene=file["scene"],
        upload_id=file["upload_id"],
        is_derived=file["parent"] is not None,
    )


#: what tenants' rules were under a stamp, which is another with each change and nowhere met again
_kept: OrderedDict[UUID, tuple[Rule, ...]] = OrderedDict()
_keeping = threading.Lock()
_MOST_KEPT = 256


def live_rules(conn: Connection, tenant_id: int) -> tuple[Rule, ...]:
    """The rules of a tenant that are on, the oldest first: read once a change, and right at once."""
    stamp = store.find_stamp(conn, tenant_id)
    if stamp is None:
        return ()
    with _keeping:
        if stamp in _kept:
            _kept.move_to_end(stamp)
            return _kept[stamp]
    # if newer than the stamp, whoever changed them has left another
    found = tuple(store.list_live(conn, tenant_id))
    with _keeping:
        _kept[stamp] = found
        while len(_kept) > _MOST_KEPT:
            _kept.popitem(last=False)
    return found


def matching(rules: Iterable[Rule], facts: FileFacts, identity: str) -> list[Rule]:
    """Those of the rules that a file meets and whose rollout it is in, in their order."""
    return [
        rule for rule in rules if _meets(rule.spec, facts) and in_rollout(rule.id, identity, rule.spec.rollout_percent)
    ]


def _meets(spec: RuleSpec, facts: FileFacts) -> bool:
    if spec.upload_id and spec.upload_id != facts.upload_id:
        return False
    if spec.scene and spec.scene != facts.scene:
        return False
    return _compiled(spec.trigger_condition).matches(facts)


@lru_cache(maxsize=20_000)
def _compiled(trigger: str) -> Condition:
    """By its text, so that nothing has to be told when a rule changes."""
    return compiled(json.loads(trigger))


@dataclass(frozen=True, slots=True)
class Verdict:
    """What a rule says to a file."""

    rule: Rule
    checks: list[Check]
    rollout: bool | None  #: None: that depends on the identity, and there is none

    @property
    def matches(self) -> bool:
        """Whether all holds, in the rollout or not."""
        return all(check.holds for check in self.checks)


def verdict(rule: Rule, facts: FileFacts, identity: str | None) -> Verdict:
    """Why a file meets a rule, or does not."""
    spec, checks = rule.spec, []
    if spec.status != ON:
        checks.append(Check("status", ON, spec.status, holds=False))
    if spec.upload_id:
        checks.append(Check("uploadId", spec.upload_id, facts.upload_id, spec.upload_id == facts.upload_id))
    if spec.scene:
        checks.append(Check("scene", spec.scene, facts.scene, spec.scene == facts.scene))
    checks += _compiled(spec.trigger_condition).explained(facts)
    if identity is None and 0 < spec.rollout_percent < 100:
        return Verdict(rule, checks, rollout=None)
    return Verdict(rule, checks, in_rollout(rule.id, identity or "", spec.rollout_percent))


@dataclass(frozen=True, slots=True)
class Rules:
    """The use cases around rules, and what they need to know of this installation. Forbidden unless an admin asks."""

    pool: Pool
    webhooks: Webhooks
    log_payloads: bool

    def create(self, caller: Caller, given: Mapping[str, Any]) -> tuple[int, int]:
        """Add a rule from the fields given (as RuleSpec, documents as objects); its id and version.

        InvalidInput for what cannot be, Conflict when the name is taken.
        """
        caller.principal.expect_admin()
        tenant_id = caller.principal.tenant_id
        with db.transaction(self.pool) as conn:
            _lock(conn, tenant_id)
            spec = Checks(conn, self.webhooks, tenant_id).checked(RuleSpec(**_as_spec(given)))
            rule_id, version = store.insert_rule(conn, tenant_id=tenant_id, creator=caller.principal.user, spec=spec)
            self._note(conn, caller, "createPreAction", spec, {"id": str(rule_id), **given})
        return rule_id, version

    def update(self, caller: Caller, rule_id: int, changes: Mapping[str, Any]) -> int:
        """Change the fields given of one rule; its version, a new one if anything is different then.

        Errors as `create`, NotFound without the rule.
        """
        caller.principal.expect_admin()
        with db.transaction(self.pool) as conn:
            rule = _locked(conn, caller.principal.tenant_id, rule_id)
            spec = replace(rule.spec, **_as_spec(changes))
            return self._save(conn, caller, "updatePreAction", rule, spec, {"id": str(rule_id), **changes})

    def rollback(self, caller: Caller, rule_id: int, version: int) -> int:
        """Have a rule say again what it said in an earlier version; that is a new one, and its number is answered.

        NotFound without the rule or the version, InvalidInput where it cannot be said any more, Conflict when the
        name it had is taken.
        """
        caller.principal.expect_admin()
        tenant_id = caller.principal.tenant_id
        with db.transaction(self.pool) as conn:
            rule = _locked(conn, tenant_id, rule_id)
            spec = store.find_version(conn, tenant_id=tenant_id, rule_id=rule_id, version=version)
            if spec is None:
                raise NotFound("There is no such version of this rule.")
            asked = {"id": str(rule_id), "version": version}
            try:
                return self._save(conn, caller, "rollbackPreAction", rule, spec, asked)
            except InvalidInput as exc:
                told = [Mistake("#/version", f"{m.pointer.removeprefix('#/')}: {m.detail}") for m in exc.mistakes]
                raise InvalidInput(told) from exc

    def delete(self, caller: Caller, rule_id: int) -> None:
        """Delete a rule. NotFound; Conflict while others come after it."""
        caller.principal.expect_admin()
        with db.transaction(self.pool) as conn:
            rule = _locked(conn, caller.principal.tenant_id, rule_id)
            if store.has_followers(conn, rule):
                raise Conflict("Other rules come after this one.", code="rule_followed")
            store.delete_rule(conn, rule, updater=caller.principal.user)
            self._note(conn, caller, "deletePreAction", rule.spec, {"id": str(rule_id)})

    def get(self, asker: Principal, rule_id: int) -> Rule:
        """One rule. NotFound."""
        asker.expect_admin()
        with db.connection(self.pool) as conn:
            return _found(conn, asker.tenant_id, rule_id)

    def search(
        self, asker: Principal, tenant_id: int, wanted: RuleFilter, *, limit: int, offset: int
    ) -> tuple[list[Rule], int]:
        """A page of a tenant's rules, newest first, and how many there are in all."""
        asker.expect_admin()
        with db.connection(self.pool) as conn:
            return store.list_rules(conn, tenant_id=tenant_id, wanted=wanted, limit=limit, offset=offset)

    def test(self, asker: Principal, file: int | FileFacts, rule_id: int | None) -> list[Verdict]:
        """What one rule, or each that is on, says to a stored file or to one that might be. NotFound."""
        asker.expect_admin()
        tenant_id = asker.tenant_id
        with db.connection(self.pool) as conn:
            facts = file if isinstance(file, FileFacts) else _stored(conn, tenant_id, file)
            rules = store.list_live(conn, tenant_id) if rule_id is None else [_found(conn, tenant_id, rule_id)]
        identity = None if isinstance(file, FileFacts) else str(file)
        return [verdict(rule, facts, identity) for rule in rules]

    def _save(
        self, conn: Connection, caller: Caller, op_type: str, rule: Rule, spec: RuleSpec, asked: Mapping[str, Any]
    ) -> int:
        spec = Checks(conn, self.webhooks, rule.tenant_id, rule.id, rule.spec).checked(spec)
        if spec == rule.spec:
            return rule.version
        version = store.update_rule(conn, rule, updater=caller.principal.user, spec=spec)
        self._note(conn, caller, op_type, spec, asked)
        return version

    def _note(self, conn: Connection, caller: Caller, op_type: str, spec: RuleSpec, asked: Mapping[str, Any]) -> None:
        """Write the op log row, and whoever keeps rules in memory keeps former ones from now on."""
        text = as_text({to_camel(name): value for name, value in asked.items()}) if self.log_payloads else ""
        insert_op_logs(conn, caller, op_type, [Operation(biz_name=spec.action_name, request=redacted(text))])
        store.renew_stamp(conn, caller.principal.tenant_id)


def _as_spec(given: Mapping[str, Any]) -> dict[str, Any]:
    return {name: as_text(value) if name in _DOCUMENTS else value for name, value in given.items()}


def _lock(conn: Connection, tenant_id: int) -> None:
    tenants.ensure_tenant(conn, tenant_id)
    store.lock_rules(conn, tenant_id)


def _locked(conn: Connection, tenant_id: int, rule_id: int) -> Rule:
    _lock(conn, tenant_id)
    return _found(conn, tenant_id, rule_id)


def _found(conn: Connection, tenant_id: int, rule_id: int) -> Rule:
    rule = store.find_rule(conn, tenant_id=tenant_id, rule_id=rule_id)
    if rule is None:
        raise NotFound("There is no such rule.")
    return rule


def _stored(conn: Connection, tenant_id: int, file_id: int) -> FileFacts:
    file = files.find_file(conn, tenant_id=tenant_id, file_id=file_id)
    if file is None:
        raise NotFound("There is no such file.")
    return facts_of(file)
