"""Writes what is delivered to receivers: a task's end as the row was then, with URLs that work now, signed anew."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
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
from asynch.service.documents import Documents, as_json, file_document
from asynch.store import webhooks

_TIMES = ("created_at", "started_at", "finished_at", "expire_at", "updated_at", "enqueue_at")


@dataclass(frozen=True, slots=True)
class Letter:
    """A message and the headers that prove it."""

    id: str  #: the same however often it is delivered
    about: str  #: the id of the task it tells of; empty where it tells of none
    text: str
    headers: Mapping[str, str] = field(repr=False)


@dataclass(frozen=True, slots=True)
class Letters:
    """The writer and what it needs to know of this installation."""

    pool: Pool
    box: SecretBox
    documents: Documents

    def written(self, system_tenant: int, delivery_id: int, snapshot: str) -> Letter:
        """The message of a delivery. ExecutorError when no secret of the tenant can be read. DatabaseDown."""
        told, tenant_id = orjson.loads(snapshot), served_by(system_tenant)
        row, message_id = told.get("task"), told.get("id") or message_id_of(delivery_id)
        data = self.documents.status(_row(row)) if row else self._about_file(told)
        body = as_json({"type": told["type"], "timestamp": told["timestamp"], "data": data})
        headers = callbacks.signed(self._keys(tenant_id), message_id, int(time()), body)
        return Letter(message_id, str(row["id"]) if row else "", body.decode(), headers)

    def _about_file(self, told: Mapping[str, Any]) -> dict[str, Any]:
        """What an action tells of a file; nothing where it is none."""
        if "file" not in told:
            return {}
        return {"action": told["action"], "file": file_document(self.documents.storage, told["file"])}

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
