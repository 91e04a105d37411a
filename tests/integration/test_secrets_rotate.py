"""`asynch secrets rotate`: afterwards the first key alone reads all there is, whatever happens meanwhile."""

from __future__ import annotations

from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl, urlsplit

import pytest
from cryptography.fernet import Fernet

import asynch
from asynch import db, settings
from asynch.domain.principal import served_by
from asynch.errors import Forbidden
from asynch.secretbox import SecretBox, SecretError
from asynch.service import rotation, schema
from asynch.storage.local import LocalStorage
from asynch.store import facts, sealed
from asynch.store.files import NewUpload, insert_upload
from asynch.store.webhooks import insert_key
from asynch.wiring import make_storage
from tests.database import all_rows
from tests.programs import environ, run
from tests.rows import add_model, add_tasks, bend, rows_of

OLD, NEW, LOST = (Fernet.generate_key().decode() for _ in range(3))
OLD_BOX, NEW_BOX, BOTH, LOST_BOX = SecretBox([OLD]), SecretBox([NEW]), SecretBox([NEW, OLD]), SecretBox([LOST])
TENANTS = (3, 7)


@pytest.fixture
def filled(pool: db.Pool) -> db.Pool:
    """A database under the old key: two tenants with a model and five tasks each, one of them without headers."""
    with db.transaction(pool) as conn:
        conn.execute("DELETE FROM asynch_meta WHERE key = %s", (schema.CANARY,))
    schema.check_canary(pool, OLD_BOX)
    for tenant in TENANTS:
        bound = OLD_BOX.seal(tenant, "api_key", f"X-Key:of {tenant}")
        lane = add_model(pool, tenant_id=tenant, api_key=bound)
        with db.transaction(pool) as conn:
            hook = OLD_BOX.seal(tenant, "webhook_secret", f"whsec of {tenant}")
            insert_key(conn, tenant_id=tenant, creator="", secret=hook)
        ids = add_tasks(pool, lane, 5, tenant_id=tenant)
        for task_id in ids[1:]:
            bend(pool, [task_id], upload_headers=OLD_BOX.seal(tenant, "upload_headers", f"headers of {task_id}"))
        works = add_tasks(
            pool, lane, 1, tenant_id=served_by(tenant)
        )  # the system's, with the headers of who sent a file
        bend(pool, works, upload_headers=OLD_BOX.seal(tenant, "upload_headers", f"headers of {works}"))
        with db.transaction(pool) as conn:
            headers = OLD_BOX.seal(tenant, "upload_headers", f"sender of {tenant}")
            upload = NewUpload("eva", "a.png", "", 1, "", "pending", upload_headers=headers)
            insert_upload(conn, tenant_id=tenant, upload=upload)
    with db.transaction(pool) as conn:
        conn.execute("UPDATE asynch_models SET deleted_at = now() WHERE tenant_id = 7")  # its tasks may still run
    return pool


def secrets_of(pool: db.Pool, box: SecretBox) -> list[str]:
    """Everything that is sealed, opened; SecretError where the box cannot."""
    models = all_rows(pool, "SELECT tenant_id, api_key FROM asynch_models ORDER BY tenant_id, id")
    opened = [box.open(r["tenant_id"], "api_key", r["api_key"]) for r in models]
    for r in rows_of(pool).values():
        owner = served_by(r["tenant_id"]) if r["tenant_id"] < 0 else r["tenant_id"]
        opened += [box.open(owner, "upload_headers", r["upload_headers"])] if r["upload_headers"] else []
    for r in all_rows(pool, "SELECT tenant_id, upload_headers FROM asynch_upload ORDER BY tenant_id"):
        opened.append(box.open(r["tenant_id"], "upload_headers", r["upload_headers"]))
    for r in all_rows(pool, "SELECT tenant_id, secret FROM asynch_webhook_key ORDER BY tenant_id"):
        opened.append(box.open(r["tenant_id"], "webhook_secret", r["secret"]))
    with db.connection(pool) as conn:
        assert box.check_canary(facts.find_fact(conn, schema.CANARY) or ""), "the canary"
    return opened


def told(counts: list[rotation.Count]) -> dict[str, tuple[int, int, int, int]]:
    return {c.name: (c.rotated, c.current, len(c.unreadable), c.unsettled) for c in counts}


def test_afterwards_the_first_key_alone_reads_all(filled: db.Pool, dsn: str, tmp_path: Path) -> None:
    before = secrets_of(filled, OLD_BOX)
    with pytest.raises(SecretError):
        secrets_of(filled, NEW_BOX)
    env = environ(tmp_path, dsn) | {"ASYNCH_SECRETS__KEYS": f'["{NEW}", "{OLD}"]'}
    answer = run("secrets", "rotate", env=env)

    assert (answer.returncode, answer.stderr) == (0, "")
    assert [line.split(maxsplit=2)[:2] for line in answer.stdout.splitlines()] == [
        ["models", "2"], ["tasks", "10"], ["uploads", "2"], ["webhooks", "2"], ["canary", "1"],
    ]  # fmt: skip
    assert secrets_of(filled, NEW_BOX) == before
    again = run("secrets", "rotate", env=env)
    assert again.returncode == 0
    assert [line.split()[1:4] for line in again.stdout.splitlines()] == [
        ["0", "rotated,", "2"], ["0", "rotated,", "10"], ["0", "rotated,", "2"], ["0", "rotated,", "2"], ["0", "rotated,", "1"],
    ]  # fmt: skip
    assert run("secrets", "rotate", env=env | {"ASYNCH_SECRETS__KEYS": f'["{NEW}"]'}).returncode == 0


def test_what_no_key_reads_is_named_without_its_content(filled: db.Pool, dsn: str, tmp_path: Path) -> None:
    task_id = next(iter(rows_of(filled)))
    token = LOST_BOX.seal(3, "upload_headers", "lost")
    bend(filled, [task_id], upload_headers=token)
    env = environ(tmp_path, dsn) | {"ASYNCH_SECRETS__KEYS": f'["{NEW}", "{OLD}"]'}
    answer = run("secrets", "rotate", env=env)

    assert answer.returncode == 1
    assert answer.stderr == f"asynch: tasks {task_id} of tenant 3: unreadable\n"
    assert "10 rotated, 0 already current, 1 unreadable" in answer.stdout
    assert rows_of(filled)[task_id]["upload_headers"] == token
    bend(filled, [task_id], upload_headers="")
    assert len(secrets_of(filled, NEW_BOX)) == 16


def test_keys_of_another_installation_change_nothing(filled: db.Pool, dsn: str, tmp_path: Path) -> None:
    before = rows_of(filled)
    answer = run("secrets", "rotate", env=environ(tmp_path, dsn) | {"ASYNCH_SECRETS__KEYS": f'["{LOST}"]'})

    assert (answer.returncode, answer.stdout) == (2, "")
    assert rows_of(filled) == before


def test_small_batches_leave_nothing_out(filled: db.Pool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rotation, "_BATCH", 2)

    assert told(list(rotation.rotate(filled, BOTH)))["tasks"] == (10, 0, 0, 0)
    assert len(secrets_of(filled, NEW_BOX)) == 16


@pytest.mark.parametrize("after", [0, 1, 2, 5, 9])
def test_one_that_is_interrupted_anywhere_goes_on(filled: db.Pool, monkeypatch: pytest.MonkeyPatch, after: int) -> None:
    left, real = [after], sealed.swap_sealed

    def swap(*args: Any) -> bool:
        if not left[0]:
            raise KeyboardInterrupt
        left[0] -= 1
        return real(*args)

    with monkeypatch.context() as broken:
        broken.setattr(sealed, "swap_sealed", swap)
        with pytest.raises(KeyboardInterrupt):
            list(rotation.rotate(filled, BOTH))
    assert len(secrets_of(filled, BOTH)) == 16
    with db.connection(filled) as conn:  # so that nobody starts without the old key yet
        assert not NEW_BOX.check_canary(facts.find_fact(conn, schema.CANARY) or "")

    counts = told(list(rotation.rotate(filled, BOTH)))
    assert sum(counts[name][0] for name in ("models", "tasks", "uploads", "webhooks")) == 16 - after
    assert len(secrets_of(filled, NEW_BOX)) == 16


class Meddling(SecretBox):
    """Lets somebody write another secret between reading and writing, as an API beside it may."""

    def __init__(self, pool: db.Pool, others: SecretBox, times: int) -> None:
        super().__init__([NEW, OLD])
        self.pool, self.others, self.times = pool, others, times

    def resealed(self, tenant_id: int, field: str, token: str) -> str | None:
        if field == "api_key" and tenant_id == 7 and self.times:
            self.times -= 1
            with db.transaction(self.pool) as conn:
                changed = self.others.seal(7, "api_key", f"X-Key:changed, {self.times} to come")
                conn.execute("UPDATE asynch_models SET api_key = %s WHERE tenant_id = 7", (changed,))
        return super().resealed(tenant_id, field, token)


@pytest.mark.parametrize("writer", [OLD_BOX, BOTH], ids=["with the old key", "with the new"])
def test_what_is_changed_meanwhile_is_kept_and_rotated(filled: db.Pool, writer: SecretBox) -> None:
    counts = told(list(rotation.rotate(filled, Meddling(filled, writer, times=2))))

    assert counts["models"][2:] == (0, 0)
    assert "X-Key:changed, 0 to come" in secrets_of(filled, NEW_BOX)


def test_what_never_stays_the_same_is_said(filled: db.Pool) -> None:
    (models, *_) = rotation.rotate(filled, Meddling(filled, OLD_BOX, times=1000))

    assert (models.unsettled, models.good) == (1, False)


def test_a_task_that_ends_meanwhile_stays_without_headers(filled: db.Pool, monkeypatch: pytest.MonkeyPatch) -> None:
    real = sealed.list_sealed

    def listed(*args: Any, **options: Any) -> list[sealed.Sealed]:
        found = real(*args, **options)
        bend(filled, [secret.id for secret in found], upload_headers="")
        return found

    monkeypatch.setattr(sealed, "list_sealed", listed)
    assert told(list(rotation.rotate(filled, BOTH)))["tasks"] == (0, 0, 0, 0)
    assert {r["upload_headers"] for r in rows_of(filled).values()} == {""}


def test_links_that_were_signed_before_go_on_until_the_old_key_is_gone(tmp_path: Path) -> None:
    chosen = settings.build({"data_dir": str(tmp_path)})
    old, both, new = (make_storage(chosen, box) for box in (OLD_BOX, BOTH, NEW_BOX))
    (tmp_path / "result").write_bytes(b"{}")
    old.put("7/1-1.json", tmp_path / "result", "application/json")
    link = dict(parse_qsl(urlsplit(old.url("7/1-1.json", filename="1.json", content_type="application/json")).query))

    assert isinstance(both, LocalStorage)
    assert isinstance(new, LocalStorage)
    assert both.verify("7/1-1.json", link).path.read_bytes() == b"{}"
    with pytest.raises(Forbidden):
        both.verify("7/1-1.json", link | {"expires": "9999999999"})
    with pytest.raises(Forbidden):
        new.verify("7/1-1.json", link)


#: every place that seals something, with its kind in asynch/store/sealed.py
SEALERS = {
    "service/models.py": {"models"},
    "web/auth.py": {"tasks", "uploads"},
    "service/webhooks.py": {"webhooks"},
}


def test_every_stored_secret_is_rotated() -> None:
    package = Path(asynch.__file__).parent
    files = {str(f.relative_to(package)) for f in package.rglob("*.py") if ".seal(" in f.read_text()}

    assert files - {"secretbox.py"} == set(SEALERS), (
        "what seals a secret that is stored needs a line in KINDS of asynch/store/sealed.py (with its two queries in "
        "asynch/sql/sealed.sql), and a line in SEALERS here"
    )
    assert set().union(*SEALERS.values()) == {kind.name for kind in sealed.KINDS}
