"""The lanes of the system's own work on files: which there are, made where one is first needed."""

from __future__ import annotations

from asynch.db import Connection
from asynch.domain.principal import served_by
from asynch.store import files, tenants, webhooks
from asynch.store.files import NewLane

#: What hands a received file on to storage as it is, and what makes a film smaller before.
UPLOAD, UPLOAD_FILM = "upload", "upload.film"
#: What takes in a file that its sender has put into storage himself.
UPLOAD_STAGED = "upload.staged"
COVER = "video.cover"
#: The scheme of their targets.
SCHEME = "local"
#: How an input in storage is named, before its address.
STORED = "store:"
#: Pauses between attempts, seconds.
SCHEDULE_S = (5, 60, 600)
AT_ONCE = 8
_HOUR_S = 3600


def upload_lane(tmp_host: str, *, film: bool) -> NewLane:
    """Where received files of one host are processed."""
    work = UPLOAD_FILM if film else UPLOAD
    timeout_s = 12 * _HOUR_S if film else _HOUR_S
    return NewLane(f"{work}@{tmp_host}", f"{SCHEME}:{work}", AT_ONCE, timeout_s, SCHEDULE_S, tmp_host)


def staged_lane() -> NewLane:
    """Where files that are in storage are taken in, by any worker."""
    return NewLane(UPLOAD_STAGED, f"{SCHEME}:{UPLOAD_STAGED}", AT_ONCE, 12 * _HOUR_S, SCHEDULE_S)


def processor_lane(name: str) -> NewLane:
    """Where any worker runs a processor on stored files."""
    return NewLane(name, f"{SCHEME}:{name}", AT_ONCE, _HOUR_S, SCHEDULE_S)


def ensure_lane(conn: Connection, *, tenant_id: int, lane: NewLane) -> int:
    """The lane's id, for work on behalf of this tenant."""
    system = served_by(tenant_id)
    found = webhooks.find_lanes(conn, tenant_id=system, names=[lane.name])
    if lane.name not in found:
        tenants.ensure_tenant(conn, system)
        files.insert_lane(conn, tenant_id=system, lane=lane)
        found = webhooks.find_lanes(conn, tenant_id=system, names=[lane.name])
    return found[lane.name]
