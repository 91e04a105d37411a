"""What the operator says about time, as the cleaner's duties need it."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Terms:
    """Durations in seconds."""

    interval_s: float
    queue_timeout_s: float
    failed_retention_s: float
    op_log_retention_s: float
    tmp_host_grace_s: float
    delete_results: bool
    part_ttl_s: float = 86_400.0
    batch: int = 1000  #: rows a transaction, so that no lock is held for long
