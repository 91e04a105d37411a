"""`asynch check`: one finding for each part an installation stands on."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

from asynch import db, spans, wiring
from asynch.errors import AsynchError
from asynch.executors import broker
from asynch.media import ffmpeg
from asynch.service import schema
from asynch.settings import Settings
from asynch.store import facts, survey, workers


@dataclass(frozen=True, slots=True)
class Finding:
    """Whether one part works, and what there is to say about it."""

    part: str
    good: bool
    detail: str


def findings(settings: Settings) -> Iterator[Finding]:
    """All parts in the order they depend on each other; a part that failed does not keep the others from looking."""
    yield Finding("config", True, f"data_dir {settings.data_path}")
    looks: list[tuple[str, Callable[[Settings], str]]] = [
        ("database", _database),
        ("schema", _schema),
        ("locks", _locks),
        ("storage", _storage),
        ("ffmpeg", _ffmpeg),
        ("broker", _broker),
        ("tracing", _tracing),
    ]
    for part, look in looks:
        try:
            yield Finding(part, True, look(settings))
        except (AsynchError, db.Error) as exc:
            yield Finding(part, False, str(exc).strip())


def _pool(settings: Settings) -> db.Pool:
    return db.open_small_pool(wiring.any_dsn(settings), name="asynch-check")


def _database(settings: Settings) -> str:
    with _pool(settings) as pool, db.connection(pool) as conn:
        version = facts.server_version(conn)
    lock_dsn = settings.database.lock_dsn.get_secret_value() or wiring.any_dsn(settings)
    with db.open_session(lock_dsn, name="asynch-check") as session:
        if not workers.session_is_direct(session):
            raise AsynchError("lock_dsn leads through a transaction pooler; slots need a direct connection")
    return f"PostgreSQL {version}"


def _schema(settings: Settings) -> str:
    box = wiring.open_box(settings)
    with _pool(settings) as pool:
        with db.connection(pool) as conn:
            schema.check_version(conn)
        schema.check_canary(pool, box)
    return f"version {schema.SCHEMA_VERSION}, the secrets can be read"


def _locks(settings: Settings) -> str:
    with _pool(settings) as pool, db.connection(pool) as conn:
        schema.check_version(conn)
        found = survey.locks(conn)
    told = f"{found.slots_configured} slots configured, room for about {found.capacity} locks"
    if found.slots_configured > found.capacity // 2:
        raise AsynchError(f"{told}: raise max_locks_per_transaction")
    return told


def _storage(settings: Settings) -> str:
    told = wiring.make_storage(settings, wiring.open_box(settings)).check()
    return f"{settings.storage.backend}: {told}"


def _ffmpeg(_: Settings) -> str:
    path = ffmpeg.find_ffmpeg()
    if path is None:
        raise AsynchError("not found: install it, or the package imageio-ffmpeg")
    told = f"version {ffmpeg.ffmpeg_version(path)} in {path.parent}"
    if missing := ffmpeg.missing_encoders(path):
        names = ", ".join(missing)
        raise AsynchError(f"{told} cannot encode with {names}: install another, or remove it for the wheel's")
    return told


def _broker(settings: Settings) -> str:
    url = settings.broker.url.get_secret_value()
    return f"{broker.greet(url)} answers" if url else "none: the Postgres queue itself"


def _tracing(settings: Settings) -> str:
    endpoint = settings.tracing.otlp_endpoint
    spans.check(endpoint)
    return f"spans go to {endpoint}" if endpoint else "off"
