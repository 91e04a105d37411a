"""/preAction: what is to be done with a tenant's files as soon as they are complete; for admins."""

from __future__ import annotations

import json
from typing import Any

from flask import Blueprint
from flask.typing import ResponseReturnValue

from asynch.service.rules import Rules, Verdict
from asynch.store.rules import Rule, RuleFilter, RuleSpec
from asynch.web import parts
from asynch.web.auth import caller, named_tenant, principal
from asynch.web.bodies import read_json, read_query
from asynch.web.rule_bodies import NewRule, RuleChanges, RuleSearch, RuleTest, WhichRule, WhichVersion

bp = Blueprint("rules", __name__, url_prefix="/preAction")


def _rules() -> Rules:
    made_of = parts()
    return Rules(made_of.pool, made_of.webhooks, made_of.settings.op_log.payloads)


@bp.post("/createPreAction")
def create_pre_action() -> ResponseReturnValue:
    """Add a rule; 409 when the tenant has one of this name."""
    rule_id, version = _rules().create(caller(), read_json(NewRule).said())
    return {"id": str(rule_id), "version": version}


@bp.put("/updatePreAction")
def update_pre_action() -> ResponseReturnValue:
    """Change what is given, as a new version; null or absent stays as it is."""
    body = read_json(RuleChanges)
    return {"id": str(body.id), "version": _rules().update(caller(), body.id, body.said())}


@bp.delete("/deletePreAction")
def delete_pre_action() -> ResponseReturnValue:
    """Delete a rule; 409 while others come after it."""
    asked = read_query(WhichRule)
    _rules().delete(caller(), asked.id)
    return {"id": str(asked.id)}


@bp.get("/getPreAction")
def get_pre_action() -> ResponseReturnValue:
    """One rule."""
    return _shown(_rules().get(principal(), read_query(WhichRule).id))


@bp.post("/listPreAction")
def list_pre_action() -> ResponseReturnValue:
    """A page of the tenant's rules, newest first."""
    body = read_json(RuleSearch)
    wanted = RuleFilter(body.action_name or None, body.execute_mode, body.status)
    tenant_id = named_tenant(body.tenant_id)
    found, total = _rules().search(principal(), tenant_id, wanted, limit=body.page.page_size, offset=body.page.offset)
    return {"list": [_shown(rule) for rule in found], "total": total}


@bp.post("/testPreAction")
def test_pre_action() -> ResponseReturnValue:
    """What one rule, or each that is on, says to a file, and why; nothing is done with the file."""
    body = read_json(RuleTest)
    return {"list": [_judged(found) for found in _rules().test(principal(), body.asked(), body.id)]}


@bp.post("/rollback")
def rollback() -> ResponseReturnValue:
    """Have a rule say again what it said in an earlier version; that is a new version."""
    body = read_json(WhichVersion)
    return {"id": str(body.id), "version": _rules().rollback(caller(), body.id, body.version)}


def _after(spec: RuleSpec) -> str | None:
    return None if spec.after_id is None else str(spec.after_id)


def _judged(found: Verdict) -> dict[str, Any]:
    rule = found.rule
    return {
        "id": str(rule.id),
        "actionName": rule.spec.action_name,
        "version": rule.version,
        "after": _after(rule.spec),
        "matches": found.matches,
        "rollout": found.rollout,
        "checks": [check._asdict() for check in found.checks],
    }


def _shown(rule: Rule) -> dict[str, Any]:
    spec = rule.spec
    return {
        "id": str(rule.id),
        "tenantId": str(rule.tenant_id),
        "actionName": spec.action_name,
        "actionType": spec.action_type,
        "uploadId": spec.upload_id,
        "scene": spec.scene,
        "triggerCondition": json.loads(spec.trigger_condition),
        "executeMode": spec.execute_mode,
        "targetUrl": spec.target_url,
        "retryStrategy": spec.retry_strategy,
        "delaySeconds": spec.delay_seconds,
        "after": _after(spec),
        "rolloutPercent": spec.rollout_percent,
        "version": rule.version,
        "status": spec.status,
        "awaitResult": spec.await_result,
        "timeoutSeconds": spec.timeout_seconds,
        "options": json.loads(spec.options),
        "creator": rule.creator,
        "createdAt": rule.created_at,
        "modifier": rule.updater,
        "updatedAt": rule.updated_at,
    }
