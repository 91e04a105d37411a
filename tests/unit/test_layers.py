"""Imports point down: each part of the package knows those below it and no other, each driver lives in one place."""

from __future__ import annotations

import ast
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path

import pytest

import asynch

PACKAGE = Path(asynch.__file__).parent

#: From the ground up. A part imports from itself and from lines above it here, never from its own line or below.
FLOORS: list[set[str]] = [
    {"cores", "durable", "errors", "sql", "units"},
    {"domain"},
    {"written"},
    {"partial"},
    {
        "executors",
        "incoming",
        "storage",
        "media",
        "db",
        "log",
        "secretbox",
        "processes",
        "sources",
        "systemd",
        "metrics",
        "otlp",
    },
    {"store", "shapes", "binaries", "postmaster", "spans"},
    {"service", "cleaner", "sections", "embedded"},
    {"worker", "settings"},
    {"web", "client"},
    {"wiring"},
    {"checks", "supervisor", "commands"},
    {"demo"},
    {"cli"},
    {"__main__"},
]

#: Who may know a library at all; a name with a dot is one module.
DRIVERS = {
    "flask": {"web"},
    "werkzeug": {"web"},
    "gunicorn": {"web.server", "web.bodies"},
    "wsproto": {"web.streams"},
    "psycopg": {"db", "store"},
    "psycopg_pool": {"db"},
    "minio": {"storage.minio"},
    "requests": {"storage.http", "client"},
    "httptools": {"executors.answer"},
    "urllib3": {"executors", "storage", "client", "otlp"},
    "apscheduler": {"cleaner.schedule"},
    "cryptography": {"secretbox", "service.tokens"},
    "jwt": {"service.tokens"},
    "click": {"cli", "commands"},
    "rich": {"demo", "commands"},
    "prometheus_client": {"metrics", "web.metrics"},
    "yaml": {"sources", "demo"},
    "opentelemetry": {"otlp"},
    "kombu": {"executors.broker"},
    "PIL": {"media"},
    "imageio_ffmpeg": set[str](),
}

#: What a part may know of the ones below it, where less is meant than all of them.
NARROW = {
    "domain": {"errors", "units"},
    "sql": set[str](),
    "db": {"errors", "sql"},
    "store": {"db", "domain", "errors"},
    "storage": {"durable", "errors"},
    "executors": {"errors", "domain"},
    "media": {"cores", "errors", "domain"},
    "otlp": {"domain"},
    "spans": {"errors", "otlp"},
    "client": {"errors"},
    "commands": {"client", "errors", "settings"},
}


def modules() -> dict[str, ast.Module]:
    """Every module by its name below the package; the package itself is left out, it is empty."""
    found = {}
    for file in sorted(PACKAGE.rglob("*.py")):
        name = ".".join(file.relative_to(PACKAGE).with_suffix("").parts).removesuffix("__init__").rstrip(".")
        if name:
            found[name] = ast.parse(file.read_text(encoding="utf-8"))
    return found


def imported(tree: ast.Module) -> Iterator[str]:
    """The absolute names that a module imports, wherever in it."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "imports are absolute"
            assert node.module is not None
            if node.module == "asynch":
                yield from (f"asynch.{alias.name}" for alias in node.names)
            else:
                yield node.module


TREES = modules()
PARTS = {name.partition(".")[0] for name in TREES}


def edges() -> dict[str, set[str]]:
    """Part to the parts it imports."""
    found: dict[str, set[str]] = defaultdict(set)
    for name, tree in TREES.items():
        part = name.partition(".")[0]
        for target in imported(tree):
            if target.startswith("asynch."):
                found[part].add(target.split(".")[1])
        found[part].discard(part)
    return found


def floor_of(part: str) -> int:
    return next(n for n, floor in enumerate(FLOORS) if part in floor)


def test_every_part_has_its_place() -> None:
    assert {part for floor in FLOORS for part in floor} >= PARTS


@pytest.mark.parametrize("part", sorted(PARTS))
def test_imports_point_down(part: str) -> None:
    up = {other for other in edges()[part] if floor_of(other) >= floor_of(part)}

    assert up == set()


@pytest.mark.parametrize("part", NARROW)
def test_a_narrow_part_knows_little(part: str) -> None:
    assert edges()[part] <= NARROW[part]


@pytest.mark.parametrize("library", DRIVERS)
def test_a_library_is_known_where_it_belongs(library: str) -> None:
    users = {name for name, tree in TREES.items() if library in {target.partition(".")[0] for target in imported(tree)}}

    strangers = {name for name in users if not ({name, name.partition(".")[0]} & DRIVERS[library])}
    assert strangers == set()


def test_the_web_and_the_worker_do_not_know_each_other() -> None:
    found = edges()

    assert "web" not in found["worker"]
    assert "worker" not in found["web"]


def test_the_test_sees_an_import_inside_a_function() -> None:
    tree = ast.parse("def f():\n    from asynch.web.app import create_app\n    import flask.json\n")

    assert list(imported(tree)) == ["asynch.web.app", "flask.json"]
