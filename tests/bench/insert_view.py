"""The floor of createTask: a Flask view that runs one INSERT, on the product's own server with its settings."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from flask import Flask, request

from asynch import db
from asynch.settings import load
from asynch.web.server import serve
from tests.bench.place import Site, child, free_port, until_it_listens

_INSERT = """
    INSERT INTO asynch_task (id, tenant_id, lane_id, model_name, request_payload)
    VALUES (asynch_new_id(), 1, %s, %s, %s) RETURNING id"""


@contextmanager
def serving(site: Site, lane: int) -> Iterator[str]:
    """The URL of the view, in a process like `asynch api`."""
    port = free_port()
    config = site.config(server={"port": port})
    log = config.with_suffix(".log")
    with child([sys.executable, "-m", "tests.bench.insert_view", str(config), str(lane)], log) as process:
        until_it_listens(process, log, port)
        yield f"http://127.0.0.1:{port}/insert"


def _main(config: Path, lane: int) -> None:
    settings = load(config, os.environ)

    def make() -> Flask:
        app = Flask("floor")
        pool = db.open_pool(settings.database.dsn.get_secret_value(), size=settings.database.pool_size, name="floor")

        @app.post("/insert")
        def insert() -> tuple[dict[str, str], int]:
            body = request.get_json()
            with pool.connection() as conn:
                row = conn.execute(_INSERT, (lane, body["modelName"], str(body["requestPayload"]))).fetchone()
            assert row is not None
            return {"id": str(row["id"])}, 202

        return app

    serve(make, settings)


if __name__ == "__main__":
    _main(Path(sys.argv[1]), int(sys.argv[2]))
