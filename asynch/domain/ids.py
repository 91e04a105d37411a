"""Ids of tasks and what is numbered like them: a bigint in the database, its decimal digits to everyone else."""

from __future__ import annotations

_MOST = 2**63 - 1


def number_of(task_id: str) -> int:
    """The number of an id; 0, which no task has, for what is none."""
    if task_id.isascii() and task_id.isdigit() and len(task_id) <= 19 and int(task_id) <= _MOST:
        return int(task_id)
    return 0
