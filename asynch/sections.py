"""Every configuration key with its default and range, section by section; it judges no combinations."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, SecretStr

from asynch.shapes import (
    Bitrate,
    FieldPath,
    HeaderName,
    Host,
    MimePattern,
    Network,
    NetworkOrHost,
    OptionalBaseUrl,
    OptionalEndpoint,
    OptionalUrl,
    Origin,
    SecretBrokerUrl,
    SecretDsn,
    SecretHeaderValue,
    SecretKey,
    Zone,
)
from asynch.units import (
    DAY,
    GIB,
    HOUR,
    MIB,
    MINUTE,
    Count,
    Duration,
    Port,
    Positive,
    PositiveDuration,
    Rate,
    RateField,
    Size,
)

EMPTY = SecretStr("")

Fetch = Literal["getTaskBatch", "getTaskResult", "result"]
Level = Literal["DEBUG", "INFO", "WARNING", "ERROR", "CRITICAL"]
#: the HTTP parser and the JSON scanner recurse; well above any real payload, well below their limit
DEEPEST = 500


class Section(BaseModel):
    """A group of keys: frozen, complete, and silent about its input when it complains."""

    model_config = ConfigDict(frozen=True, extra="forbid", hide_input_in_errors=True)


class Server(Section):
    host: Host = "127.0.0.1"
    port: Port = 8080
    processes: Positive = 1
    threads: Positive = 32
    public_url: OptionalBaseUrl = ""
    max_body: Size = MIB
    max_batch_body: Size = 64 * MIB
    trusted_proxies: tuple[Network, ...] = ()
    streams: Positive = 512
    cors_origins: tuple[Origin, ...] = ()
    timezone: Zone = "UTC"
    mark_fetched: tuple[Fetch, ...] = ("getTaskBatch",)


class Database(Section):
    dsn: SecretDsn = EMPTY
    lock_dsn: SecretDsn = EMPTY
    pool_size: Positive = 10


class Worker(Section):
    enabled: bool = True
    threads: Positive = 32
    reserve: Positive = 4
    uploaders: Positive = 8
    metrics_port: Port = 0
    poll_interval: PositiveDuration = 1.0
    batch_size: Positive = 64
    drain_timeout: Duration = 30.0
    tmp_dir: str = ""
    tmp_max: Size = 20 * GIB
    tmp_host_grace: Duration = 10 * MINUTE
    queue_timeout: Duration = 24 * HOUR
    task_timeout: Duration = 0.0
    max_crashes: Positive = 3


class Cleaner(Section):
    enabled: bool = True
    interval: PositiveDuration = 10.0
    failed_retention: Duration = 24 * HOUR
    unfetched_retention: Duration = 30 * DAY
    op_log_retention: Duration = 90 * DAY
    delete_results: bool = False


class LocalStorage(Section):
    dir: str = ""


class MinioStorage(Section):
    endpoint: OptionalEndpoint = ""
    public_endpoint: OptionalEndpoint = ""
    access_key: SecretStr = EMPTY
    secret_key: SecretStr = EMPTY
    bucket: str = ""
    secure: bool = True
    region: str = "us-east-1"


class HttpStorage(Section):
    upload_url: OptionalUrl = ""
    url_field: FieldPath = "fileUrl"
    headers: Mapping[HeaderName, SecretHeaderValue] = Field(default_factory=dict)
    delete_url: OptionalUrl = ""


class Storage(Section):
    backend: Literal["local", "minio", "http"] = "local"
    local: LocalStorage = LocalStorage()
    minio: MinioStorage = MinioStorage()
    http: HttpStorage = HttpStorage()
    url_ttl: PositiveDuration = 24 * HOUR
    public_base_url: OptionalBaseUrl = ""

    @property
    def urls_last_s(self) -> float | None:
        """How long the URLs of results work; None for ever."""
        return None if self.backend == "http" or self.public_base_url else self.url_ttl


class Jwt(Section):
    issuer: str = ""
    audience: str = ""
    jwks_url: OptionalUrl = ""
    key: SecretStr = EMPTY
    tenant_claim: Annotated[str, Field(min_length=1)] = "tenantId"


class Gateway(Section):
    secret: SecretStr = EMPTY


class Auth(Section):
    mode: Literal["none", "apikey", "gateway", "jwt"] = "none"
    jwt: Jwt = Jwt()
    gateway: Gateway = Gateway()
    users_manage_models: bool = True


class Egress(Section):
    models_allow: tuple[NetworkOrHost, ...] = ()
    webhooks_allow: tuple[NetworkOrHost, ...] = ()
    deny: tuple[NetworkOrHost, ...] = ()


class Limits(Section):
    tenant_max_concurrency: Count = 0
    tenant_queue_limit: Count = 0
    reads_per_minute: Count = 6000
    creates_per_minute: Count = 0
    max_payload_depth: Annotated[Positive, Field(le=DEEPEST)] = 64


class Secrets(Section):
    keys: tuple[SecretKey, ...] = ()


class OpLog(Section):
    payloads: bool = True
    reads: bool = False


class Uploads(Section):
    max_size: Size = 10 * GIB
    types: Annotated[tuple[MimePattern, ...], Field(min_length=1)] = (
        "image/*",
        "video/*",
        "audio/*",
        "application/pdf",
        "text/plain",
    )
    part_ttl: PositiveDuration = 24 * HOUR
    per_tenant_rate: RateField = Rate(60, MINUTE)
    covers: bool = True
    scan_command: str = ""


class Media(Section):
    processes: Count = 0
    crf: Annotated[Count, Field(le=51)] = 23
    audio_bitrate: Bitrate = "128k"
    keep: Literal["smaller", "always"] = "smaller"


class Broker(Section):
    url: SecretBrokerUrl = EMPTY


class Tracing(Section):
    otlp_endpoint: OptionalBaseUrl = ""


class Log(Section):
    level: Annotated[Level, BeforeValidator(lambda v: v.upper() if isinstance(v, str) else v)] = "INFO"
    format: Literal["json", "console"] = "json"
