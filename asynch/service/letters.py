"""Writes what is delivered to receivers: a task's end as the row was then, with URLs that work now, signed anew."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime
from time import time
from typing import Any

import orjson

from asynch import db
from asynch.db import Pool, Row
from asynch.domain import callbacks
from asynch.domain.principal import served_by
from asynch.errors import ErrorCode, ExecutorError
from asynch.secretbox import SecretBox, SecretError
from asynch.service import links
from asynch.service.documents import Documents, as_json, file_document
from asynch.store import webhooks

_TIMES = ("created_at", "started_at", "finished_at", "expire_at", "updated_at", "enqueue_at")


@dataclass(frozen=True, slots=True)
class Letter:
    """A message and the headers that prove it."""

    id: str  #: the same however often it is delivered
    about: str  #: the id of the task it tells of; empty where it tells of none
    text: str
    headers: Mapping[str, str] = field(default_factory=dict, repr=False)


@dataclass(frozen=True, slots=True)
class Letters:
    """The writer and what it needs to know of this installation."""

    pool: Pool
    box: SecretBox
    documents: Documents

    def written(self, system_tenant: int, delivery_id: int, snapshot: str) -> Letter:
        """The message of a delivery, signed. ExecutorError when no secret of the tenant can be read. DatabaseDown."""
        letter = self.unsigned(system_tenant, delivery_id, snapshot)
        keys = self._keys(served_by(system_tenant))
        return replace(letter, headers=callbacks.signed(keys, letter.id, int(time()), letter.text.encode()))

    def unsigned(self, system_tenant: int, delivery_id: int, snapshot: str) -> Letter:
        """The same for those who need no proof of whom it comes from."""
        told, tenant_id = orjson.loads(snapshot), served_by(system_tenant)
        row, message_id = told.get("task"), told.get("id") or message_id_of(delivery_id)
        data = self.documents.status(_row(row)) if row else self._about_file(told, tenant_id, delivery_id)
        body = as_json({"type": told["type"], "timestamp": told["timestamp"], "data": data})
        return Letter(message_id, str(row["id"]) if row else "", body.decode())

    def asked(self, snapshot: str) -> str:
        """What a model is asked by an action: the rule's options, and the file."""
        told = orjson.loads(snapshot)
        return as_json({**told["options"], **self._of_file(told)}).decode()

    def _about_file(self, told: Mapping[str, Any], tenant_id: int, action_id: int) -> dict[str, Any]:
        """What an action tells of a file; nothing where it is none."""
        if "file" not in told:
            return {}
        patience_s = told.get("result_s", 0)
        base_url = self.documents.public_url
        url = links.to_result(self.box, base_url, tenant_id=tenant_id, action_id=action_id, patience_s=patience_s)
        return {**self._of_file(told), "result_url": url}

    def _of_file(self, told: Mapping[str, Any]) -> dict[str, Any]:
        """The action and its file; what the action before has made stands in place of its identity."""
        action, made = told["action"], told.get("made")
        if made:
            action = {**action, "input": file_document(self.documents.storage, made)}
        return {"action": action, "file": file_document(self.documents.storage, told["file"])}

    def _keys(self, tenant_id: int) -> list[str]:
        with db.connection(self.pool) as conn:
            sealed = webhooks.list_keys(conn, tenant_id=tenant_id)
        try:
            return [self.box.open(tenant_id, callbacks.FIELD, token) for token in sealed]
        except SecretError as exc:
            raise ExecutorError(ErrorCode.INTERNAL, "the tenant's secret cannot be read", transient=True) from exc


def message_id_of(delivery_id: int) -> str:
    """What a message is known by that is delivered for the first time."""
    return f"msg_{delivery_id}"


def _row(told: dict[str, Any]) -> Row:
    times = {name: datetime.fromisoformat(told[name]) if told[name] else None for name in _TIMES}
    return {**told, **times}
