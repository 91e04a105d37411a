"""Callbacks as their tenant's admins see them: secrets, deliveries, tests; and the lanes that creation needs."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime

import orjson

from asynch import db
from asynch.db import Connection, Pool
from asynch.domain import callbacks
from asynch.domain.principal import Caller, served_by
from asynch.errors import ExecutorError, InvalidInput, Mistake, NotFound
from asynch.executors.egress import Policy
from asynch.secretbox import SecretBox
from asynch.service import listing
from asynch.service.letters import message_id_of
from asynch.store import news, tenants
from asynch.store import webhooks as store
from asynch.store.oplog import Operation, insert_op_logs
from asynch.store.webhooks import DeliveryFilter

#: How long the former secret is valid beside a new one, seconds.
BOTH_VALID_S = 86_400.0
#: So many receivers of a tenant have lanes of their own; whoever comes later shares one, or names without end would
#: be lanes without end.
_MOST_RECEIVERS = 1000
_SHARED = "*"


@dataclass(frozen=True, slots=True)
class Secret:
    """A new secret, told once, and until when the former one is valid too."""

    text: str
    former_until: datetime | None


@dataclass(frozen=True, slots=True)
class Webhooks:
    """The use cases and what they need to know of this installation."""

    pool: Pool
    box: SecretBox
    policy: Policy

    def check(self, url: str, pointer: str) -> str:
        """A callback's URL as it will be called. InvalidInput; what its host resolves to is judged at each call."""
        try:
            cleaned = callbacks.cleaned(url)
            self.policy.early_check(cleaned)
        except (ValueError, ExecutorError) as exc:
            raise InvalidInput([Mistake(pointer, str(exc))]) from exc
        return cleaned

    def lanes(self, conn: Connection, tenant_id: int, urls: Iterable[str]) -> dict[str, int]:
        """The lane of each URL's receiver, made where there is none yet."""
        names = {url: callbacks.LANE + callbacks.receiver_of(url) for url in urls}
        wanted = sorted(set(names.values()))
        if not wanted:
            return {}
        system = served_by(tenant_id)
        found = store.find_lanes(conn, tenant_id=system, names=wanted)
        if missing := [name for name in wanted if name not in found]:
            found |= self._add(conn, tenant_id, missing)
        shared = found.get(callbacks.LANE + _SHARED, 0)
        return {url: found.get(name, shared) for url, name in names.items()}

    def _add(self, conn: Connection, tenant_id: int, names: list[str]) -> dict[str, int]:
        system = served_by(tenant_id)
        room = _MOST_RECEIVERS - store.count_receivers(conn, tenant_id=system, most=_MOST_RECEIVERS)
        own = names[:room] if room < len(names) else names
        added = own if len(own) == len(names) else [*own, callbacks.LANE + _SHARED]
        targets = {name: _target(name) for name in added}
        store.insert_receivers(conn, tenant_id=system, base_urls=targets)
        tenants.ensure_tenant(conn, system)
        self.ensure_secret(conn, tenant_id)
        return store.find_lanes(conn, tenant_id=system, names=list(targets))

    def ensure_secret(self, conn: Connection, tenant_id: int) -> None:
        """Give a tenant a secret to sign with, unless it has one."""
        store.insert_key(conn, tenant_id=tenant_id, creator="", secret=self._sealed(tenant_id, callbacks.new_secret()))

    def rotate_secret(self, caller: Caller) -> Secret:
        """A new secret; messages are signed with it and with the former one as long as that is valid."""
        tenant_id, secret = caller.principal.tenant_id, callbacks.new_secret()
        sealed = self._sealed(tenant_id, secret)
        with db.transaction(self.pool) as conn:
            until = store.retire_keys(conn, tenant_id=tenant_id, valid_s=BOTH_VALID_S)
            while not store.insert_key(conn, tenant_id=tenant_id, creator=caller.principal.user, secret=sealed):
                # somebody else was quicker: theirs is the former one now, and this is the one that was told last
                until = store.retire_keys(conn, tenant_id=tenant_id, valid_s=BOTH_VALID_S)
            insert_op_logs(conn, caller, "rotateWebhookSecret", [Operation()])
        return Secret(secret, until)

    def _sealed(self, tenant_id: int, secret: str) -> str:
        return self.box.seal(tenant_id, callbacks.FIELD, secret)

    def search(self, tenant_id: int, wanted: DeliveryFilter, *, limit: int, offset: int) -> listing.Found:
        """A page of deliveries, newest first, and the total."""
        with db.connection(self.pool) as conn:
            rows, total = store.list_deliveries(
                conn,
                tenant_id=served_by(tenant_id),
                wanted=wanted,
                limit=limit,
                offset=offset,
                cap=listing.TOTAL_CAP + 1,
            )
        return listing.found(rows, total)

    def redeliver(self, caller: Caller, delivery_id: int) -> int:
        """Deliver the same message once more, now; the id of the new delivery. NotFound."""
        tenant_id = caller.principal.tenant_id
        with db.transaction(self.pool) as conn:
            former = store.find_delivery(conn, tenant_id=served_by(tenant_id), delivery_id=delivery_id)
            if former is None:
                raise NotFound("There is no such delivery.")
            snapshot = {"id": message_id_of(former["id"]), **orjson.loads(former["request_payload"])}
            created = store.insert_delivery(
                conn,
                lane_id=former["lane_id"],
                parent_id=former["parent_id"],
                creator=caller.principal.user,
                event=former["biz_name"],
                url=former["input_ref"],
                snapshot=orjson.dumps(snapshot).decode(),
            )
            news.announce(conn, {former["lane_id"]})
            task_id = str(former["parent_id"] or "")
            insert_op_logs(conn, caller, "redeliverWebhook", [Operation(task_id=task_id)])
        return created

    def test(self, caller: Caller, url: str) -> int:
        """Deliver a message that tells of no task; the id of the delivery. InvalidInput."""
        cleaned = self.check(url, "#/callbackUrl")
        with db.transaction(self.pool) as conn:
            lane_id = self.lanes(conn, caller.principal.tenant_id, [cleaned])[cleaned]
            created = store.insert_delivery(
                conn,
                lane_id=lane_id,
                parent_id=None,
                creator=caller.principal.user,
                event=callbacks.Event.TEST,
                url=cleaned,
                snapshot=None,
            )
            news.announce(conn, {lane_id})
            insert_op_logs(conn, caller, "testWebhook", [Operation()])
        return created


def _target(name: str) -> str:
    receiver = name.removeprefix(callbacks.LANE)
    return f"webhook+{receiver}" if receiver != _SHARED else "webhook+https://*"
