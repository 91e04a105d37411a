"""The configuration: every key, its sources, and what is said when one is wrong."""

from __future__ import annotations

import os
import tomllib
from collections.abc import Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
import yaml
from cryptography.fernet import Fernet
from hypothesis import given
from hypothesis import strategies as st

from asynch.errors import SettingsError
from asynch.settings import Settings, build, load
from asynch.units import rate, seconds, size_bytes

EXAMPLE = Path(__file__).parents[2] / "config.yml"
SECRET = "hunter2-and-more"


@pytest.fixture(autouse=True)
def _elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def written(tmp_path: Path, text: str) -> Path:
    path = tmp_path / "asynch.yml"
    path.write_text(text, encoding="utf-8")
    return path


def refusal(values: Mapping[str, Any]) -> str:
    with pytest.raises(SettingsError) as caught:
        build(values)
    return str(caught.value)


def key_paths(values: Mapping[str, Any], above: str = "") -> Iterator[str]:
    for key, value in values.items():
        if isinstance(value, dict) and value and set(value) != {"count", "per_s"}:
            yield from key_paths(value, f"{above}{key}.")
        else:
            yield above + key


def test_the_example_file_changes_nothing() -> None:
    assert load(EXAMPLE, {}) == load(None, {})


def test_the_example_file_names_every_key_and_no_other() -> None:
    example = yaml.safe_load(EXAMPLE.read_text())
    assert sorted(key_paths(example)) == sorted(key_paths(Settings().model_dump(mode="json")))


def test_the_example_file_travels_with_the_package() -> None:
    project = tomllib.loads((EXAMPLE.parent / "pyproject.toml").read_text())
    wheel = project["tool"]["hatch"]["build"]["targets"]["wheel"]
    assert wheel["force-include"]["config.yml"] == "asynch/config.yml"


def test_defaults_are_those_of_the_contract() -> None:
    settings = Settings()
    assert (settings.server.port, settings.server.max_batch_body) == (8080, 64 * 2**20)
    assert (settings.worker.tmp_max, settings.worker.queue_timeout) == (20 * 2**30, 86400)
    assert settings.cleaner.unfetched_retention == 30 * 86400
    assert settings.server.mark_fetched == ("getTaskBatch",)


def test_override_beats_environment_beats_file_beats_default(tmp_path: Path) -> None:
    file = written(tmp_path, "server: {port: 1, threads: 1, streams: 1}")
    environ = {"ASYNCH_SERVER__PORT": "2", "ASYNCH_SERVER__THREADS": "2"}
    server = load(file, environ, {"server": {"port": 3, "host": None}}).server
    assert (server.port, server.threads, server.streams, server.processes) == (3, 2, 1, 1)


def test_named_file_beats_environment_beats_working_directory(tmp_path: Path) -> None:
    (tmp_path / "config.yml").write_text("server: {port: 1}")
    (tmp_path / "two.yml").write_text("server: {port: 2}")
    (tmp_path / "three.yml").write_text("server: {port: 3}")
    environ = {"ASYNCH_CONFIG": str(tmp_path / "two.yml")}
    ports = [load(None, {}), load(None, environ), load(tmp_path / "three.yml", environ)]
    assert [settings.server.port for settings in ports] == [1, 2, 3]


def test_a_named_file_must_be_there(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match=r"cannot read .*gone\.yml: No such file"):
        load(None, {"ASYNCH_CONFIG": str(tmp_path / "gone.yml")})


def test_build_reads_no_file(tmp_path: Path) -> None:
    (tmp_path / "config.yml").write_text("server: {port: 1}")
    assert build({}).server.port == 8080


@pytest.mark.parametrize("text", ["", "# nothing\n", "server:\n", "server:\n  port:\n", "\ufeffserver: {}"])
def test_what_has_no_value_keeps_its_default(tmp_path: Path, text: str) -> None:
    assert load(written(tmp_path, text), {}) == load(None, {})


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("server: {port: 1", "asynch.yml:1:17: "),
        ("server:\n  port: 1\n  port: 2\n", "asynch.yml:3:3: duplicate key port"),
        ("- a\n- b\n", "expected sections"),
        ("server: 5\n", "server: expected a section with keys, not int"),
        ("a: \x01", "expected YAML in UTF-8"),
        ("a: 2024-13-45", "expected YAML in UTF-8"),
        ("[" * 2000, "expected YAML in UTF-8"),
        ("1: 2", "1: unknown key"),
    ],
)
def test_a_broken_file_is_one_clear_line(tmp_path: Path, text: str, said: str) -> None:
    with pytest.raises(SettingsError) as caught:
        load(written(tmp_path, text), {})
    assert said in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("text", [f"a: *{SECRET}", f"a: !{SECRET} x", f"database: {SECRET}", f"a: '{SECRET}"])
def test_a_broken_file_never_shows_what_may_be_a_password(tmp_path: Path, text: str) -> None:
    with pytest.raises(SettingsError) as caught:
        load(written(tmp_path, text), {})
    assert SECRET not in str(caught.value)


def test_environment_reaches_deep_keys_lists_and_the_top() -> None:
    settings = load(
        None,
        {
            "ASYNCH_DATA_DIR": "/srv/asynch",
            "ASYNCH_STORAGE__MINIO__ACCESS_KEY": "me",
            "ASYNCH_STORAGE__HTTP__HEADERS": '{"X-Token": "t"}',
            "ASYNCH_SERVER__TRUSTED_PROXIES": '["10.0.0.0/8"]',
            "ASYNCH_CLEANER__ENABLED": "false",
        },
    )
    assert settings.data_path == Path("/srv/asynch")
    assert settings.storage.minio.access_key.get_secret_value() == "me"
    assert settings.storage.http.headers["X-Token"].get_secret_value() == "t"
    assert settings.server.trusted_proxies == ("10.0.0.0/8",)
    assert settings.cleaner.enabled is False


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("ASYNCH_SERVER__PRT", "ASYNCH_SERVER__PRT: unknown key, did you mean ASYNCH_SERVER__PORT?"),
        ("ASYNCH_SERVER_PORT", "ASYNCH_SERVER_PORT: unknown key, did you mean ASYNCH_SERVER__PORT?"),
        ("ASYNCH_DATADIR", "ASYNCH_DATADIR: unknown key, did you mean ASYNCH_DATA_DIR?"),
        ("ASYNCH_X__Y", "ASYNCH_X__Y: unknown key"),
        ("ASYNCH_SERVER", "ASYNCH_SERVER: is a section, expected ASYNCH_SERVER__<KEY>"),
    ],
)
def test_a_variable_meant_as_a_key_stops_the_start(name: str, said: str) -> None:
    with pytest.raises(SettingsError) as caught:
        load(None, {name: SECRET})
    assert str(caught.value) == said


def test_other_variables_of_that_name_are_left_alone() -> None:
    assert load(None, {"ASYNCH_TEST_RUN": "1", "HOME": "/x"}) == load(None, {})


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({"server": {"prot": 1}}, "server.prot: unknown key, did you mean server.port?"),
        ({"sever": {}}, "sever: unknown key, did you mean server?"),
        ({"pollInterval": 1}, "pollInterval: unknown key, did you mean worker.poll_interval?"),
        ({"qqqqqqq": 1}, "qqqqqqq: unknown key"),
    ],
)
def test_a_mistyped_key_gets_the_likely_one(values: Mapping[str, Any], said: str) -> None:
    assert refusal(values) == said


@pytest.mark.parametrize(
    ("section", "key", "value"),
    [
        ("server", "port", 70000),
        ("server", "port", "http"),
        ("server", "host", "[::1]"),
        ("server", "host", ""),
        ("server", "threads", 0),
        ("server", "threads", True),
        ("server", "public_url", "ftp://example.com"),
        ("server", "public_url", "https://example.com/?a=b"),
        ("server", "public_url", "https://exam ple.com/"),
        ("server", "trusted_proxies", "10.0.0.1"),
        ("server", "trusted_proxies", ["proxy"]),
        ("server", "cors_origins", ["https://example.com/path"]),
        ("server", "cors_origins", ["*"]),
        ("server", "timezone", "Mars/Olympus"),
        ("server", "timezone", "../../etc/passwd"),
        ("server", "timezone", "America"),
        ("server", "timezone", ""),
        ("server", "mark_fetched", ["getTask"]),
        ("server", "max_body", 0),
        ("server", "max_body", "1MB"),
        ("server", "max_body", -1),
        ("worker", "threads", 0),
        ("worker", "reserve", 0),
        ("worker", "uploaders", 0),
        ("worker", "tmp_max", 0),
        ("worker", "poll_interval", 0.0),
        ("worker", "poll_interval", "soon"),
        ("worker", "task_timeout", "-1s"),
        ("worker", "task_timeout", float("nan")),
        ("worker", "task_timeout", float("inf")),
        ("worker", "drain_timeout", False),
        ("storage", "backend", "s3"),
        ("storage", "minio", {"endpoint": "https://s3.example.com"}),
        ("storage", "http", {"url_field": "data..url"}),
        ("storage", "http", {"url_field": ""}),
        ("egress", "deny", ["10.0.0.0/99"]),
        ("limits", "max_payload_depth", 501),
        ("limits", "max_payload_depth", 0),
        ("uploads", "types", []),
        ("uploads", "types", ["image"]),
        ("uploads", "per_tenant_rate", "60/fortnight"),
        ("media", "crf", 52),
        ("media", "audio_bitrate", "128"),
        ("log", "level", "LOUD"),
        ("tracing", "otlp_endpoint", "collector:4318"),
    ],
)
def test_a_bad_value_is_named_with_its_key(section: str, key: str, value: object) -> None:
    said = refusal({section: {key: value}})
    assert said.startswith(f"{section}.{key}")
    assert "expected" in said or "should have" in said
    shown = next(iter(value.values())) if isinstance(value, dict) else value
    assert repr(shown) in said or repr(shown)[1:-1] in said


def test_all_mistakes_are_told_at_once(tmp_path: Path) -> None:
    file = written(tmp_path, "server: {port: x}\nworker: {thread: 1}\n")
    with pytest.raises(SettingsError) as caught:
        load(file, {"ASYNCH_LOG__FROMAT": "json"}, {"limits": {"max_payload_depth": 0}})
    said = str(caught.value).split("; ")
    assert [line.split()[0].rstrip(":") for line in said] == [
        "ASYNCH_LOG__FROMAT",
        "server.port",
        "worker.thread",
        "limits.max_payload_depth",
    ]


@pytest.mark.parametrize(
    "values",
    [
        {"database": {"dsn": SECRET}},
        {"database": {"lock_dsn": [SECRET]}},
        {"database": {"dns": SECRET}},
        {"database": SECRET},
        {"secrets": {"keys": [SECRET]}},
        {"secrets": {"keys": SECRET}},
        {"storage": {"minio": {"secret_key": {"x": SECRET}}}},
        {"storage": {"minio": {"access_key": [SECRET]}}},
        {"storage": {"http": {"headers": {"X": f"{SECRET}\n"}}}},
        {"storage": {"http": {"upload_url": f"https://me:{SECRET}@example.com/"}}},
        {"auth": {"gateway": {"secret": [SECRET]}}},
        {"auth": {"jwt": {"key": [SECRET]}}},
        {"broker": {"url": SECRET}},
    ],
)
def test_a_wrong_secret_is_refused_without_being_shown(values: Mapping[str, Any]) -> None:
    assert SECRET not in refusal(values)


@pytest.mark.parametrize("name", ["ASYNCH_SECRETS__KEYS", "ASYNCH_STORAGE__HTTP__HEADERS", "ASYNCH_BROKER__URL"])
def test_a_wrong_secret_in_the_environment_is_not_shown(name: str) -> None:
    with pytest.raises(SettingsError) as caught:
        load(None, {name: SECRET})
    assert "expected" in str(caught.value)
    assert SECRET not in str(caught.value)


def full_of_secrets() -> Settings:
    return build(
        {
            "database": {"dsn": f"postgresql://u:{SECRET}@h/d", "lock_dsn": f"password={SECRET}"},
            "storage": {
                "minio": {"access_key": SECRET, "secret_key": SECRET},
                "http": {"headers": {"X-Token": SECRET}},
            },
            "auth": {"jwt": {"key": SECRET}, "gateway": {"secret": SECRET}},
            "broker": {"url": f"amqp://u:{SECRET}@h/"},
        }
    )


def test_secrets_are_in_no_repr_and_no_public_dump() -> None:
    settings = full_of_secrets()
    assert settings.database.dsn.get_secret_value() == f"postgresql://u:{SECRET}@h/d"
    assert SECRET not in repr(settings)
    assert SECRET not in str(settings.model_dump(mode="json"))


def test_public_dump_tells_a_secret_that_is_set_from_one_that_is_not() -> None:
    shown = full_of_secrets().model_dump(mode="json")
    assert shown["database"]["dsn"]
    assert shown["storage"]["http"]["headers"]["X-Token"]
    assert Settings().model_dump(mode="json")["database"]["dsn"] == ""


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({"server": {"host": "0.0.0.0"}}, "auth.mode = 'none'"),
        ({"server": {"host": "example.com"}}, "auth.mode = 'none'"),
        ({"server": {"max_body": "65MiB"}}, "server.max_batch_body"),
        ({"auth": {"mode": "gateway", "gateway": {"secret": "s"}}}, "server.trusted_proxies is empty"),
        (
            {"auth": {"mode": "gateway"}, "server": {"trusted_proxies": ["10.0.0.1"]}},
            "auth.gateway.secret is empty",
        ),
        (
            {"auth": {"mode": "jwt", "jwt": {"issuer": "i", "audience": "a"}}},
            "auth.jwt.jwks_url or auth.jwt.key is empty",
        ),
        ({"auth": {"mode": "jwt", "jwt": {"issuer": "i", "key": "k"}}}, "auth.jwt.audience is empty"),
        ({"auth": {"mode": "jwt", "jwt": {"audience": "i", "key": "k"}}}, "auth.jwt.issuer is empty"),
        (
            {
                "auth": {
                    "mode": "jwt",
                    "jwt": {"issuer": "i", "audience": "a", "key": "k", "jwks_url": "https://i/j"},
                }
            },
            "not both",
        ),
        ({"storage": {"backend": "minio"}}, "storage.minio.endpoint is empty"),
        ({"storage": {"backend": "minio"}}, "storage.minio.bucket is empty"),
        ({"storage": {"backend": "minio"}}, "storage.minio.access_key is empty"),
        ({"storage": {"backend": "minio"}}, "storage.minio.secret_key is empty"),
        ({"storage": {"backend": "minio", "url_ttl": "8d"}}, "storage.url_ttl = 691200s"),
        ({"storage": {"backend": "http"}}, "storage.http.upload_url is empty"),
        (
            {"storage": {"backend": "http", "http": {"upload_url": "http://u"}, "public_base_url": "http://cdn"}},
            "storage.public_base_url: not with",
        ),
        (
            {"storage": {"backend": "http", "http": {"upload_url": "http://u", "headers": {"content-TYPE": "a/b"}}}},
            "storage.http.headers: content-TYPE belongs",
        ),
    ],
)
def test_a_contradiction_stops_the_start(values: Mapping[str, Any], said: str) -> None:
    assert said in refusal(values)


@pytest.mark.parametrize("host", ["127.0.0.1", "127.9.9.9", "::1", "localhost", "::ffff:127.0.0.1"])
def test_no_auth_is_fine_on_any_loopback_address(host: str) -> None:
    assert build({"server": {"host": host}}).egress_allow_loopback


def test_loopback_may_not_be_called_once_the_server_is_public() -> None:
    assert not build({"server": {"host": "0.0.0.0"}, "auth": {"mode": "apikey"}}).egress_allow_loopback


def test_fernet_keys_are_taken() -> None:
    key = Fernet.generate_key().decode()
    assert build({"secrets": {"keys": [key]}}).secrets.keys[0].get_secret_value() == key


def test_settings_cannot_be_changed() -> None:
    with pytest.raises(ValueError, match="frozen"):
        Settings().server.port = 1


@pytest.mark.parametrize(
    ("server", "url"),
    [
        ({}, "http://127.0.0.1:8080"),
        ({"host": "::1", "port": 80}, "http://[::1]:80"),
        ({"public_url": "https://example.com/asynch/"}, "https://example.com/asynch"),
    ],
)
def test_public_url_is_given_or_derived(server: Mapping[str, Any], url: str) -> None:
    assert build({"server": server}).public_url == url


def test_directories_follow_data_dir_until_they_are_set() -> None:
    settings = build({"data_dir": "data", "worker": {"tmp_dir": "/var/tmp/x"}})
    assert settings.data_path == Path.cwd() / "data"
    assert settings.files_path == Path.cwd() / "data" / "files"
    assert settings.tmp_path == Path("/var/tmp/x")


@pytest.mark.parametrize(
    ("uid", "xdg", "path"),
    [
        (0, "/home/x", Path("/var/lib/asynch")),
        (1000, "/home/x", Path("/home/x/asynch")),
        (1000, "not/absolute", Path("/home/me/.local/share/asynch")),
        (1000, "", Path("/home/me/.local/share/asynch")),
    ],
)
def test_data_has_a_place_for_each_kind_of_user(
    uid: int, xdg: str, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: uid)
    monkeypatch.setenv("HOME", "/home/me")
    assert load(None, {"XDG_DATA_HOME": xdg}).data_path == path


@pytest.mark.parametrize(
    ("text", "value"),
    [("10s", 10), ("5m", 300), ("24h", 86400), ("7d", 604800), ("500ms", 0.5), (0, 0), ("0", 0), (0.05, 0.05)],
)
def test_durations_read_as_seconds(text: object, value: float) -> None:
    assert seconds(text) == value


@pytest.mark.parametrize(
    ("text", "value"),
    [("64MiB", 64 << 20), ("10GiB", 10 << 30), ("1.5KiB", 1536), (0, 0), ("0", 0), (4096, 4096)],
)
def test_sizes_read_as_bytes(text: object, value: int) -> None:
    assert size_bytes(text) == value


@pytest.mark.parametrize(
    ("text", "count", "per_s"), [("60/min", 60, 60), ("5/s", 5, 1), ("1000/day", 1000, 86400), (0, 0, 60)]
)
def test_rates_read_as_count_and_period(text: object, count: int, per_s: float) -> None:
    assert (rate(text).count, rate(text).per_s) == (count, per_s)


@given(st.one_of(st.text(), st.floats(), st.integers(), st.none(), st.lists(st.integers())))
def test_a_unit_is_read_or_refused_and_nothing_else(value: object) -> None:
    for read in (seconds, size_bytes, rate):
        with suppress(ValueError):
            assert read(value) is not None


@pytest.mark.parametrize("dsn", [
    "postgresql://u:s3/cret@h/db", "postgresql://u:s3@cret@h/db", "postgresql://u:s3%cret@h/db", "dbname=x s3cret",
    "host=h password='s3cret", "host=h pasword=s3cret",
])  # fmt: skip
def test_a_dsn_that_postgres_would_repeat_in_its_complaint_is_refused_without_it(dsn: str) -> None:
    with pytest.raises(SettingsError, match=r"database\.dsn") as caught:
        build({"database": {"dsn": dsn}})

    assert "s3" not in str(caught.value)
    assert "cret" not in str(caught.value)
