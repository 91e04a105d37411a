"""A result on its way to the caller: streamed, and on disk whole or not at all."""

from __future__ import annotations

import os
import uuid
from pathlib import Path
from typing import BinaryIO

import requests

from asynch.client.transport import refusal, send, session, unreachable

_BLOCK = 1 << 20


def to_path(url: str, path: Path, timeout_s: float) -> int:
    """Write what `url` answers to `path`, which is replaced at the end only; its size in bytes."""
    part = path.with_name(f".{uuid.uuid4().hex}.part")
    try:
        with part.open("xb") as file:
            size_bytes = to_file(url, file, timeout_s)
            file.flush()
            os.fsync(file.fileno())
        part.replace(path)
    finally:
        part.unlink(missing_ok=True)
    return size_bytes


def to_file(url: str, file: BinaryIO, timeout_s: float) -> int:
    """Write what `url` answers to an open file; its size in bytes.

    Neither token nor tenant is sent: the URL is its own permission and may be another host's.
    """
    size_bytes = 0
    with session(url) as using, send(using, "GET", url, stream=True, timeout=timeout_s) as answer:
        if answer.status_code != 200:
            raise refusal(answer)
        try:
            for block in answer.iter_content(_BLOCK):
                file.write(block)
                size_bytes += len(block)
        except requests.RequestException as exc:
            raise unreachable(url, exc) from exc
    return size_bytes
