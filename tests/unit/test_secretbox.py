"""Secrets at rest, signatures and the key file."""

from __future__ import annotations

import base64
import json
import logging
import os
import stat
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Barrier

import pytest
from cryptography.fernet import Fernet
from hypothesis import given
from hypothesis import strategies as st

from asynch.errors import UserError
from asynch.secretbox import SecretBox, SecretError, is_key, load_keys

OLD = base64.urlsafe_b64encode(b"o" * 32).decode()
NEW = base64.urlsafe_b64encode(b"\xfa\xc8" * 16).decode()
BOX = SecretBox([OLD])


@given(tenant=st.integers(), field=st.text(), value=st.text(st.characters()))
def test_what_is_sealed_opens_again(tenant: int, field: str, value: str) -> None:
    assert BOX.open(tenant, field, BOX.seal(tenant, field, value)) == value


def test_a_token_hides_its_value_and_its_repetition() -> None:
    tokens = {BOX.seal(1, "api_key", "hunter2") for _ in range(2)}
    assert len(tokens) == 2
    assert not any("hunter2" in token for token in tokens)


@pytest.mark.parametrize(("tenant", "field"), [(2, "api_key"), (1, "webhook_secret")])
def test_a_token_moved_to_another_place_does_not_open(tenant: int, field: str) -> None:
    with pytest.raises(SecretError, match="sealed for another"):
        BOX.open(tenant, field, BOX.seal(1, "api_key", "x"))


@pytest.mark.parametrize("token", ["", "x", "Ünlesbar", "\ud800", "gAAAAA==", BOX.seal(1, "f", "v")[:-2] + "AA"])
def test_a_damaged_token_does_not_open(token: str) -> None:
    with pytest.raises(SecretError, match="unreadable"):
        BOX.open(1, "f", token)


@pytest.mark.parametrize("plain", [b"\xff", b"not json", json.dumps([1]).encode(), b"{}"])
def test_a_token_that_others_made_with_the_key_does_not_open(plain: bytes) -> None:
    with pytest.raises(SecretError):
        BOX.open(1, "f", Fernet(OLD).encrypt(plain).decode())


def test_the_first_key_encrypts_and_every_key_decrypts() -> None:
    both = SecretBox([NEW, OLD])
    assert both.open(1, "f", BOX.seal(1, "f", "v")) == "v"
    assert SecretBox([NEW]).open(1, "f", both.seal(1, "f", "v")) == "v"


def test_a_canary_tells_keys_that_do_not_fit() -> None:
    assert SecretBox([NEW, OLD]).check_canary(BOX.canary())
    assert not SecretBox([NEW]).check_canary(BOX.canary())
    assert not BOX.check_canary(BOX.seal(0, "canary", "asynch"))


@pytest.mark.parametrize("keys", [[], ["x"], [OLD, ""], [OLD + "\n"]])
def test_a_box_needs_keys(keys: list[str]) -> None:
    with pytest.raises(ValueError, match="Fernet"):
        SecretBox(keys)


def test_a_signature_holds_for_its_message_purpose_and_keys_only() -> None:
    signature = BOX.sign("url", b"m")
    assert BOX.verify("url", b"m", signature)
    assert SecretBox([NEW, OLD]).verify("url", b"m", signature)
    assert not BOX.verify("url", b"n", signature)
    assert not BOX.verify("other", b"m", signature)
    assert not SecretBox([NEW]).verify("url", b"m", signature)


@pytest.mark.parametrize("signature", ["", "é", "\ud800", "A" * 43])
def test_a_made_up_signature_is_refused(signature: str) -> None:
    assert not BOX.verify("url", b"m", signature)


def test_signing_keys_are_stable_and_unrelated() -> None:
    assert BOX.signing_key("a") == SecretBox([OLD, NEW]).signing_key("a")
    assert len({BOX.signing_key("a"), BOX.signing_key("b"), SecretBox([NEW]).signing_key("a")}) == 3


@pytest.mark.parametrize("text", ["", "x" * 44, OLD[:-1], OLD + " ", "é" * 44, "!" + OLD[1:]])
def test_what_is_no_fernet_key_is_told(text: str) -> None:
    assert not is_key(text)


def test_configured_keys_need_no_file(tmp_path: Path) -> None:
    assert load_keys([NEW], tmp_path / "secret.key", create=True) == [NEW]
    assert not (tmp_path / "secret.key").exists()


def test_a_key_file_is_made_once_and_for_its_owner_alone(tmp_path: Path) -> None:
    file = tmp_path / "secret.key"
    first = load_keys([], file, create=True)
    assert first == load_keys([], file, create=True) == load_keys([], file, create=False)
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert os.listdir(tmp_path) == ["secret.key"]
    assert is_key(first[0])


def test_racing_starts_agree_on_one_key(tmp_path: Path) -> None:
    starts = 8
    for turn in range(20):
        barrier = Barrier(starts)

        def start(file: Path, barrier: Barrier = barrier) -> str:
            barrier.wait()
            return load_keys([], file, create=True)[0]

        with ThreadPoolExecutor(starts) as pool:
            keys = set(pool.map(start, [tmp_path / f"{turn}.key"] * starts))
        assert len(keys) == 1
    assert len(os.listdir(tmp_path)) == 20


def test_without_keys_the_start_ends_in_one_line(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"secrets\.keys is empty and .*secret\.key is not there"):
        load_keys([], tmp_path / "secret.key", create=False)
    with pytest.raises(UserError, match="no keys"):
        load_keys([], tmp_path / "missing" / "secret.key", create=True)


@pytest.mark.parametrize("content", [b"", b"hunter2\n", b"\xff\xfe", OLD.encode() + b"\nhunter2\n"])
def test_a_broken_key_file_is_refused_without_showing_it(tmp_path: Path, content: bytes) -> None:
    file = tmp_path / "secret.key"
    file.write_bytes(content)
    with pytest.raises(UserError) as caught:
        load_keys([], file, create=True)
    assert str(file) in str(caught.value)
    assert "hunter2" not in str(caught.value)
    assert file.read_bytes() == content


def test_a_directory_in_place_of_the_key_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="cannot read the keys"):
        load_keys([], tmp_path, create=False)


def test_a_key_file_may_hold_several_keys(tmp_path: Path) -> None:
    file = tmp_path / "secret.key"
    file.write_text(f"{NEW}\n\n{OLD}\n")
    assert load_keys([], file, create=False) == [NEW, OLD]


def test_a_key_file_open_to_others_is_used_with_a_warning(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    file = tmp_path / "secret.key"
    file.write_text(OLD)
    file.chmod(0o644)
    with caplog.at_level(logging.WARNING):
        assert load_keys([], file, create=False) == [OLD]
    assert caplog.messages == ["key file is open to others"]
    assert OLD not in caplog.text
