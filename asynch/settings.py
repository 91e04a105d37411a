"""The configuration as a whole: how it is loaded, what may not be combined, which values follow from it."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from math import inf
from pathlib import Path
from typing import Any

from pydantic import ValidationError, model_validator

from asynch import sources
from asynch.errors import SettingsError
from asynch.sections import (
    Auth,
    Broker,
    Cleaner,
    Database,
    Egress,
    Limits,
    Log,
    Media,
    OpLog,
    Secrets,
    Section,
    Server,
    Storage,
    Tracing,
    Uploads,
    Worker,
)
from asynch.shapes import is_loopback
from asynch.units import DAY

#: S3 signatures (AWS SigV4) are valid for a week at most
S3_URL_TTL_MAX = 7 * DAY
#: headers that say how one body is sent
_FRAMING = frozenset({"host", "content-type", "content-length", "transfer-encoding", "connection", "expect"})


class Settings(Section):
    """The whole configuration; made by `load` or `build`."""

    data_dir: str = ""
    server: Server = Server()
    database: Database = Database()
    worker: Worker = Worker()
    cleaner: Cleaner = Cleaner()
    storage: Storage = Storage()
    auth: Auth = Auth()
    egress: Egress = Egress()
    limits: Limits = Limits()
    secrets: Secrets = Secrets()
    op_log: OpLog = OpLog()
    uploads: Uploads = Uploads()
    media: Media = Media()
    broker: Broker = Broker()
    tracing: Tracing = Tracing()
    log: Log = Log()

    @model_validator(mode="after")
    def _agrees_with_itself(self) -> Settings:
        mistakes = [*_server_mistakes(self), *_auth_mistakes(self), *_storage_mistakes(self.storage)]
        if mistakes:
            raise ValueError("; ".join(mistakes))
        return self

    @property
    def data_path(self) -> Path:
        """Absolute; what `data_dir` says, else the place this kind of user has for data."""
        return _absolute(self.data_dir) if self.data_dir else default_data_path(os.environ)

    @property
    def tmp_path(self) -> Path:
        """Absolute; where results wait for their upload."""
        return _absolute(self.worker.tmp_dir) if self.worker.tmp_dir else self.data_path / "tmp"

    @property
    def files_path(self) -> Path:
        """Absolute; where storage backend `local` keeps its objects."""
        return _absolute(self.storage.local.dir) if self.storage.local.dir else self.data_path / "files"

    @property
    def key_path(self) -> Path:
        """Absolute; the key file that stands in for `secrets.keys`."""
        return self.data_path / "secret.key"

    @property
    def public_url(self) -> str:
        """Under what clients reach the API, without a trailing slash."""
        host = f"[{self.server.host}]" if ":" in self.server.host else self.server.host
        return self.server.public_url or f"http://{host}:{self.server.port}"

    @property
    def queue_timeout(self) -> float:
        """How long a task without a time-out of its own may wait since it was due, seconds."""
        return min(self.worker.queue_timeout, self.worker.task_timeout or self.worker.queue_timeout)

    @property
    def longest(self) -> float:
        """What `worker.task_timeout` allows any wait or call, seconds; infinite without it."""
        return self.worker.task_timeout or inf

    @property
    def egress_allow_loopback(self) -> bool:
        """Whether models and webhooks on this machine may be called although their addresses are private."""
        return is_loopback(self.server.host)

    @property
    def media_processes(self) -> int:
        """How many media programs may run at once."""
        return self.media.processes or os.cpu_count() or 1


def _server_mistakes(settings: Settings) -> Iterator[str]:
    server = settings.server
    if server.max_batch_body < server.max_body:
        yield f"server.max_batch_body = {server.max_batch_body}: expected at least {server.max_body}"
    if settings.auth.mode == "none" and not is_loopback(server.host):
        yield (
            f"auth.mode = 'none': expected apikey, gateway or jwt with server.host = {server.host!r}, "
            "which is not a loopback address"
        )


def _auth_mistakes(settings: Settings) -> Iterator[str]:
    auth, jwt = settings.auth, settings.auth.jwt
    if auth.mode == "gateway":
        needed: dict[str, object] = {
            "auth.gateway.secret": auth.gateway.secret.get_secret_value(),
            "server.trusted_proxies": settings.server.trusted_proxies,
        }
        yield from _missing("auth.mode = 'gateway'", needed)
    if auth.mode == "jwt":
        key = jwt.key.get_secret_value()
        needed = {"auth.jwt.issuer": jwt.issuer, "auth.jwt.audience": jwt.audience}
        needed["auth.jwt.jwks_url or auth.jwt.key"] = jwt.jwks_url or key
        yield from _missing("auth.mode = 'jwt'", needed)
        if jwt.jwks_url and key:
            yield "auth.jwt.jwks_url and auth.jwt.key: expected one of them, not both"


def _storage_mistakes(storage: Storage) -> Iterator[str]:
    minio = storage.minio
    if storage.backend == "minio":
        needed = {
            "storage.minio.endpoint": minio.endpoint,
            "storage.minio.bucket": minio.bucket,
            "storage.minio.access_key": minio.access_key.get_secret_value(),
            "storage.minio.secret_key": minio.secret_key.get_secret_value(),
        }
        yield from _missing("storage.backend = 'minio'", needed)
        if storage.url_ttl > S3_URL_TTL_MAX:
            yield f"storage.url_ttl = {storage.url_ttl:g}s: at most 7d with storage.backend = 'minio'"
    if storage.backend == "http":
        yield from _missing("storage.backend = 'http'", {"storage.http.upload_url": storage.http.upload_url})
        if storage.public_base_url:
            yield "storage.public_base_url: not with storage.backend = 'http', whose service gives each file its URL"
        if own := sorted(name for name in storage.http.headers if name.lower() in _FRAMING):
            yield f"storage.http.headers: {', '.join(own)} belongs to each upload itself"


def _missing(cause: str, needed: Mapping[str, object]) -> Iterator[str]:
    return (f"{key} is empty: expected a value with {cause}" for key, value in needed.items() if not value)


def _absolute(text: str) -> Path:
    return Path(text).expanduser().absolute()


def default_data_path(environ: Mapping[str, str]) -> Path:
    """Where data goes when `data_dir` is empty; a relative XDG_DATA_HOME is ignored, as its makers ask."""
    if os.geteuid() == 0:
        return Path("/var/lib/asynch")
    home = Path(environ.get("XDG_DATA_HOME", ""))
    return (home if home.is_absolute() else Path.home() / ".local" / "share") / "asynch"


def load(config: Path | None, environ: Mapping[str, str], overrides: Mapping[str, Any] | None = None) -> Settings:
    """Read the configuration: `overrides` over ASYNCH_* variables over one file over the defaults.

    The file is `config`, else $ASYNCH_CONFIG, else ./config.yml if there is one. An override of None is none.
    SettingsError names everything that is wrong at once.
    """
    file = sources.config_file(config, environ)
    from_file = sources.read_yaml(file) if file else {}
    from_environ, mistakes = sources.read_environ(environ, Settings)
    values = sources.merge(Settings, from_file, from_environ, overrides or {})
    if values.get("data_dir", "") == "":
        values["data_dir"] = str(default_data_path(environ))
    return build(values, mistakes)


def build(values: Mapping[str, Any], mistakes: list[str] | None = None) -> Settings:
    """Settings from nested values alone, neither file nor environment read; SettingsError as `load`."""
    found = list(mistakes or ())
    try:
        settings = Settings.model_validate(values)
    except ValidationError as exc:
        found += sources.describe(exc, Settings)
    if found:
        raise SettingsError("; ".join(found)) from None
    return settings
