"""A client that knows /openapi.json alone, and means harm: all but models, tasks and streams."""

from __future__ import annotations

from pathlib import Path

import pytest

from asynch import db
from tests.fuzzing import fuzz
from tests.live import MakeParts


@pytest.mark.slow
def test_no_request_about_other_things_breaks_what_the_document_says(
    make_parts: MakeParts, pool: db.Pool, tmp_path: Path
) -> None:
    fuzz(make_parts, pool, tmp_path, "--exclude-tag")
