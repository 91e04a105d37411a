"""Makes the parts of each role from the settings, the worker's in a module of its own; nothing here decides anything.

What one role or backend needs is imported where it is made: half of a start would go into what the others need.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from asynch import db, spans
from asynch.errors import UserError
from asynch.secretbox import SecretBox, load_keys
from asynch.service import schema
from asynch.storage.local import LocalStorage

if TYPE_CHECKING:
    from asynch.settings import Settings
    from asynch.storage import Storage
    from asynch.web import Parts


def configured_dsn(settings: Settings) -> str:
    """`database.dsn`; UserError where a role cannot do without."""
    dsn = settings.database.dsn.get_secret_value()
    if not dsn:
        raise UserError("database.dsn is empty: this role needs it (`asynch up` brings a database of its own)")
    return dsn


def any_dsn(settings: Settings) -> str:
    """`database.dsn`, else the embedded database's; UserError when there is neither."""
    if dsn := settings.database.dsn.get_secret_value():
        return dsn
    file = settings.data_path / "dsn"
    try:
        return file.read_text(encoding="utf-8").strip()
    except OSError as exc:
        raise UserError(f"database.dsn is empty and {file} is not there: start `asynch up` or set it") from exc


def open_box(settings: Settings, *, create: bool = False) -> SecretBox:
    """The box with the configured keys; with `create` a missing key file is made."""
    configured = [key.get_secret_value() for key in settings.secrets.keys]
    return SecretBox(load_keys(configured, settings.key_path, create))


def make_storage(settings: Settings, box: SecretBox) -> Storage:
    """The configured backend."""
    chosen = settings.storage
    match chosen.backend:
        case "local":
            return LocalStorage(
                settings.files_path,
                base_url=settings.public_url,
                signing_key=box.signing_key("files"),
                older_keys=box.older_signing_keys("files"),
                url_ttl_s=int(chosen.url_ttl),
                public_base_url=chosen.public_base_url,
            )
        case "minio":
            from asynch.storage.minio import MinioStorage

            minio = chosen.minio
            return MinioStorage(
                endpoint=minio.endpoint,
                public_endpoint=minio.public_endpoint,
                access_key=minio.access_key.get_secret_value(),
                secret_key=minio.secret_key.get_secret_value(),
                bucket=minio.bucket,
                secure=minio.secure,
                region=minio.region,
                url_ttl_s=int(chosen.url_ttl),
                public_base_url=chosen.public_base_url,
            )
        case "http":
            from asynch.storage.http import HttpStorage

            http = chosen.http
            return HttpStorage(
                upload_url=http.upload_url,
                url_field=http.url_field,
                headers={name: value.get_secret_value() for name, value in http.headers.items()},
                delete_url=http.delete_url,
            )


def api_parts(settings: Settings) -> Parts:
    """What the requests of one API process work with."""
    from asynch.web import Parts

    box = open_box(settings)
    pool = db.open_pool(configured_dsn(settings), size=settings.database.pool_size, name="asynch-api")
    tracer = spans.open_tracer(settings.tracing.otlp_endpoint, service="asynch-api")
    return Parts(settings, pool, box, make_storage(settings, box), tracer)


def check_fit(pool: db.Pool, box: SecretBox, storage: Storage) -> None:
    """UserError unless schema, secrets and local store belong to this database. DatabaseDown."""
    with db.connection(pool) as conn:
        schema.check_version(conn)
    schema.check_canary(pool, box)
    if isinstance(storage, LocalStorage):
        schema.check_store_id(pool, storage.store_id)
