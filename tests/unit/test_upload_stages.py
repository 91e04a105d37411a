"""What a sender sees of an upload, and what a file may be called."""

from __future__ import annotations

import unicodedata
from itertools import product

import pytest
from hypothesis import given
from hypothesis import strategies as st

from asynch.domain.states import Phase, State
from asynch.domain.uploads import Stage, Status, Work, is_among, shown_name, stage_of


@pytest.mark.parametrize(
    ("work", "stage"),
    [
        (None, Stage(Status.RECEIVED, 10)),
        (Work(State.PENDING, Phase.CALL, False, None, ""), Stage(Status.RECEIVED, 10)),
        (Work(State.RUNNING, Phase.CALL, False, None, ""), Stage(Status.PROCESSING, 20)),
        (Work(State.RUNNING, Phase.CALL, False, 45, "compressing"), Stage(Status.COMPRESSING, 45)),
        (Work(State.PENDING, Phase.UPLOAD, False, 60, "compressing"), Stage(Status.UPLOADING_OSS, 70)),
        (Work(State.RUNNING, Phase.UPLOAD, False, 60, "compressing"), Stage(Status.UPLOADING_OSS, 80)),
        (Work(State.FAILED, Phase.CALL, False, None, ""), Stage(Status.RECEIVED, 10)),
        (Work(State.FAILED, Phase.CALL, True, None, ""), Stage(Status.FAILED, 100)),
    ],
)
def test_a_stage_is_what_the_task_says(work: Work | None, stage: Stage) -> None:
    assert stage_of(Status.RECEIVED, work) == stage


def test_an_end_stays_whatever_a_task_says() -> None:
    works = [Work(s, p, f, 50, "compressing") for s, p, f in product(State, Phase, (False, True))]

    assert {stage_of(Status.COMPLETED, work) for work in works} == {Stage(Status.COMPLETED, 100)}


@given(st.text())
def test_a_shown_name_is_short_visible_and_no_path(name: str) -> None:
    shown = shown_name(name)

    assert 0 < len(shown) <= 255
    assert shown not in (".", "..")
    assert not {"/", "\\"} & set(shown)
    assert all(unicodedata.category(c)[0] != "C" for c in shown)


@pytest.mark.parametrize(
    ("name", "shown"),
    [
        ("C:\\Users\\eva\\x.png", "x.png"),
        ("a/b/", "file"),
        ("r\u00e9sum\u00e9.pdf", "r\u00e9sum\u00e9.pdf"),
        ("..", "file"),
    ],
)
def test_a_shown_name_is_the_last_part(name: str, shown: str) -> None:
    assert shown_name(name) == shown


def test_a_type_fits_a_pattern_whatever_its_case_and_parameters() -> None:
    assert is_among("text/plain; charset=utf-8", ["image/*", "Text/Plain"])
    assert not is_among("text/html", ["image/*", "text/plain"])
