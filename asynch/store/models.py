"""Models as rows: registered targets, found by id or by name within their tenant."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from datetime import datetime
from typing import Any

from psycopg.errors import UniqueViolation

from asynch import db
from asynch.db import Connection, Row
from asynch.domain.principal import served_by
from asynch.errors import Conflict


@dataclass(frozen=True, slots=True)
class ModelSpec:
    """What its owner says of a model; each default is the contract's."""

    model_name: str
    base_url: str
    route: str = ""
    http_method: str = "POST"
    api_key: str = ""  #: sealed header bindings
    enabled: int = 1
    max_concurrency: int = 10
    queue_limit: int = 1000
    timeout_seconds: int = 60
    retry_times: int = 0
    retry_queue_max_seconds: int = 0  #: -1: a retry always goes to the tail
    retry_on: str = "any"
    retry_backoff_seconds: int = 0
    auto_clean_seconds: int = 86400
    max_result_bytes: int = 1 << 30
    remark: str = ""


@dataclass(frozen=True, slots=True)
class Model:
    """A living model."""

    id: int
    tenant_id: int
    lane_id: int
    kind: str
    creator: str
    created_at: datetime
    updater: str
    updated_at: datetime
    spec: ModelSpec


_SPEC = tuple(ModelSpec.__dataclass_fields__)


def _model(r: Row) -> Model:
    own = {name: r[name] for name in Model.__dataclass_fields__ if name != "spec"}
    return Model(**own, spec=ModelSpec(**{name: r[name] for name in _SPEC}))


def insert_model(conn: Connection, *, tenant_id: int, creator: str, spec: ModelSpec) -> int:
    """Add a model; its id. Conflict when the tenant has one of this name."""
    found = db.row(conn, "insert_model", tenant_id=tenant_id, creator=creator, **_values(spec))
    if found is None:
        raise _name_taken(spec.model_name)
    created: int = found["id"]
    return created


def update_model(conn: Connection, model: Model, *, updater: str, spec: ModelSpec) -> None:
    """Replace what is said of a locked model. Conflict when its new name is taken."""
    try:
        db.run(conn, "update_model", tenant_id=model.tenant_id, id=model.id, updater=updater, **_values(spec))
    except UniqueViolation as exc:
        raise _name_taken(spec.model_name) from exc


def _values(spec: ModelSpec) -> Mapping[str, Any]:
    return asdict(spec)


def _name_taken(name: str) -> Conflict:
    return Conflict(f"A model named {name!r} is there already.", code="model_exists")


def delete_model(conn: Connection, model: Model, *, updater: str) -> None:
    """Mark a locked model as deleted; its name is free again."""
    db.run(conn, "delete_model", tenant_id=model.tenant_id, id=model.id, updater=updater)


def find_model(conn: Connection, *, tenant_id: int, id: int | None, name: str | None) -> Model | None:
    """The model of this id, else of this name."""
    return _found(db.row(conn, "find_model", tenant_id=tenant_id, id=id, model_name=name))


def lock_model(conn: Connection, *, tenant_id: int, id: int | None, name: str | None) -> Model | None:
    """As `find_model`, and nobody else changes it before this transaction ends."""
    return _found(db.row(conn, "lock_model", tenant_id=tenant_id, id=id, model_name=name))


def _found(r: Row | None) -> Model | None:
    return _model(r) if r else None


def list_models(
    conn: Connection, *, tenant_id: int, kind: str | None, name: str | None, limit: int, offset: int
) -> tuple[list[Model], int]:
    """A page of the lanes of a tenant and of the system on its behalf, newest first, and how many there are.

    `name` is contained in theirs.
    """
    which = {"tenants": [tenant_id, served_by(tenant_id)], "kind": kind, "name": name}
    page, count = db.pipelined(
        conn, [("list_models", {**which, "limit": limit, "offset": offset}), ("count_models", which)]
    )
    return [_model(r) for r in page], count[0]["total"]


def lock_lane(conn: Connection, lane_id: int) -> None:
    """Keep creators out of a lane until this transaction ends; they hold its lock shared while they insert."""
    db.run(conn, "lock_lanes", lanes=[lane_id])


def count_open_tasks(conn: Connection, model: Model, *, at_most: int) -> int:
    """How many of a model's tasks, those that act on files too, are not final, counted no further than `at_most`."""
    total: int = db.one(conn, "count_open_tasks", tenant_id=model.tenant_id, lane_id=model.lane_id, at_most=at_most)[
        "total"
    ]
    return total


def open_tasks(conn: Connection, model: Model) -> list[int]:
    """The ids of a model's tasks, those that act on files too, that are not final."""
    found = db.rows(conn, "open_tasks_of_lane", tenant_id=model.tenant_id, lane_id=model.lane_id)
    return [r["id"] for r in found]
