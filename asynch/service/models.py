"""Registering, changing and deleting models, each with its op log row; it refuses targets that may not be called."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import orjson
from pydantic.alias_generators import to_camel

from asynch import db
from asynch.db import Connection, Pool
from asynch.domain import bindings
from asynch.domain.principal import Caller, Principal, served_by
from asynch.domain.states import State
from asynch.errors import Conflict, ExecutorError, Forbidden, InvalidInput, Mistake, NotFound
from asynch.executors.egress import Policy
from asynch.secretbox import SecretBox, SecretError
from asynch.store import models as store
from asynch.store import news, tasks, tenants
from asynch.store.limits import Breaker, find_breaker
from asynch.store.models import Model, ModelSpec
from asynch.store.oplog import Operation, insert_op_logs

#: under which name header bindings are sealed
API_KEY = "api_key"
#: shown for bindings that cannot be opened any more
_UNREADABLE = "••••"
_COUNT_UP_TO = 1000


@dataclass(frozen=True, slots=True)
class Registry:
    """The use cases around models, and what they need to know of this installation."""

    pool: Pool
    box: SecretBox
    policy: Policy
    users_manage: bool
    log_payloads: bool
    failed_retention_s: float

    def create(self, caller: Caller, given: Mapping[str, Any]) -> int:
        """Register a model from the fields given (as ModelSpec, api_key in the clear); its id.

        InvalidInput for a target or bindings that cannot be, Conflict when the name is taken.
        """
        self._allow(caller.principal)
        spec = self._sealed(caller.principal.tenant_id, ModelSpec(**given))
        self._check_target(spec)
        with db.transaction(self.pool) as conn:
            created = store.insert_model(
                conn, tenant_id=caller.principal.tenant_id, creator=caller.principal.user, spec=spec
            )
            tenants.ensure_tenant(conn, caller.principal.tenant_id)
            self._note(conn, caller, "createModel", spec, {"id": str(created), **given})
        return created

    def update(self, caller: Caller, key: ModelKey, changes: Mapping[str, Any]) -> int:
        """Change the fields given of one model; its id. Errors as `create`, NotFound without the model.

        An api_key equal to the shown mask changes nothing. Calls that run keep what they started with.
        """
        self._allow(caller.principal)
        with db.transaction(self.pool) as conn:
            model = _get(store.lock_model, conn, caller.principal.tenant_id, key)
            spec = self._changed(model, changes)
            store.update_model(conn, model, updater=caller.principal.user, spec=spec)
            news.announce(conn, {model.lane_id})  # it may have been opened, or made wider
            self._note(conn, caller, "updateModel", spec, {"id": str(model.id), **changes})
        return model.id

    def delete(self, caller: Caller, model_id: int, *, force: bool) -> int:
        """Delete a model; its id. Conflict while tasks are not final, unless `force`, which cancels them."""
        self._allow(caller.principal)
        with db.transaction(self.pool) as conn:
            model = _get(store.lock_model, conn, caller.principal.tenant_id, ModelKey(id=model_id))
            store.lock_lane(conn, model.lane_id)  # from here on no creator adds a task to it
            if force:
                self._cancel_all(conn, model, caller.principal.user)
            else:
                _refuse_if_busy(conn, model)
            store.delete_model(conn, model, updater=caller.principal.user)
            self._note(conn, caller, "deleteModel", model.spec, {"id": str(model.id), "force": force})
        return model.id

    def get(self, tenant_id: int, key: ModelKey) -> Model:
        """One model. NotFound."""
        with db.connection(self.pool) as conn:
            return _get(store.find_model, conn, tenant_id, key)

    def breaker(self, model: Model) -> Breaker:
        """How calls to a model's service went lately."""
        with db.connection(self.pool) as conn:
            return find_breaker(conn, tenant_id=model.tenant_id, base_url=model.spec.base_url)

    def search(
        self, tenant_id: int, *, kind: str | None, name: str | None, limit: int, offset: int
    ) -> tuple[list[Model], int]:
        """A page of a tenant's models, newest first, and how many there are in all."""
        with db.connection(self.pool) as conn:
            return store.list_models(conn, tenant_id=tenant_id, kind=kind, name=name, limit=limit, offset=offset)

    def shown_api_key(self, model: Model) -> str:
        """A model's header bindings for showing: values masked."""
        if not model.spec.api_key:
            return ""
        try:
            return bindings.mask(self.box.open(model.tenant_id, API_KEY, model.spec.api_key))
        except SecretError:
            return _UNREADABLE

    def _allow(self, principal: Principal) -> None:
        if not (principal.is_admin or self.users_manage):
            raise Forbidden("Only an admin may change models here.")

    def _changed(self, model: Model, changes: Mapping[str, Any]) -> ModelSpec:
        rest = dict(changes)
        given = rest.pop(API_KEY, None)
        spec = replace(model.spec, **rest)
        if given is not None and given != self.shown_api_key(model):
            spec = self._sealed(model.tenant_id, replace(spec, api_key=given))
        if (spec.base_url, spec.route) != (model.spec.base_url, model.spec.route):
            self._check_target(spec)
        return spec

    def _sealed(self, tenant_id: int, spec: ModelSpec) -> ModelSpec:
        """`spec` with its bindings checked and encrypted."""
        try:
            bound = bindings.parse(spec.api_key)
        except ValueError as exc:
            raise InvalidInput([Mistake("#/apiKey", str(exc))]) from exc
        return replace(spec, api_key=self.box.seal(tenant_id, API_KEY, spec.api_key) if bound else "")

    def _check_target(self, spec: ModelSpec) -> None:
        """Refuse a URL that cannot be called; what its host resolves to is judged at each call."""
        try:
            bindings.check_base_url(spec.base_url)
            self.policy.early_check(spec.base_url)
        except (ValueError, ExecutorError) as exc:
            raise InvalidInput([Mistake("#/baseUrl", str(exc))]) from exc
        try:
            bindings.join(spec.base_url, spec.route)
        except ValueError as exc:
            raise InvalidInput([Mistake("#/route", str(exc))]) from exc

    def _cancel_all(self, conn: Connection, model: Model, updater: str) -> None:
        ids = store.open_tasks(conn, model)
        for owner in (model.tenant_id, served_by(model.tenant_id)):  # actions on files are the system's
            cancelled = tasks.cancel(
                conn, tenant_id=owner, ids=ids, updater=updater, failed_retention_s=self.failed_retention_s
            )
            news.announce_cancel(conn, [task_id for task_id, state in cancelled if state == State.RUNNING])

    def _note(self, conn: Connection, caller: Caller, op_type: str, spec: ModelSpec, asked: Mapping[str, Any]) -> None:
        """Write the op log row: what was asked, bindings masked."""
        told = dict(asked)
        if told.get(API_KEY):
            told[API_KEY] = bindings.mask(told[API_KEY])
        text = orjson.dumps({to_camel(name): value for name, value in told.items()}).decode()
        request = text if self.log_payloads else ""
        insert_op_logs(conn, caller, op_type, [Operation(model_name=spec.model_name, request=request)])


@dataclass(frozen=True, slots=True)
class ModelKey:
    """How a caller names a model: by id, else by name."""

    id: int | None = None
    name: str | None = None


def _get(find: Callable[..., Model | None], conn: Connection, tenant_id: int, key: ModelKey) -> Model:
    found = find(conn, tenant_id=tenant_id, id=key.id, name=key.name)
    if found is None:
        raise NotFound("There is no such model.")
    return found


def _refuse_if_busy(conn: Connection, model: Model) -> None:
    busy = store.count_open_tasks(conn, model, at_most=_COUNT_UP_TO)
    if busy:
        more = " or more" if busy == _COUNT_UP_TO else ""
        raise Conflict(
            f"{busy}{more} tasks of this model are not final; force=true cancels them.",
            code="tasks_not_final",
            openTasks=busy,
        )
