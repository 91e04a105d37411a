"""What survives a crash of the machine: files that appear whole or not at all, and names that stay. Raises OSError."""

from __future__ import annotations

import os
import secrets
from contextlib import suppress
from pathlib import Path


def sync(path: Path) -> None:
    """Return when a file's bytes, or a directory's names, survive."""
    fd = os.open(path, os.O_RDONLY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def write_once(path: Path, text: str, *, mode: int = 0o666) -> None:
    """Make a file, once: of those who race the first wins, and all read what he wrote.

    A link refuses to replace, which a rename would not, and the name never shows a half-written file.
    """
    draft = path.with_name(f"{path.name}.{secrets.token_hex(8)}")
    try:
        with os.fdopen(os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode), "w") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        with suppress(FileExistsError):
            os.link(draft, path)
        sync(path.parent)
    finally:
        draft.unlink(missing_ok=True)
