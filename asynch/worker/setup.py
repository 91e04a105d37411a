"""What a worker is made from: the settings as values, and the parts that outlive each of its lives."""

from __future__ import annotations

from dataclasses import dataclass

from asynch.cleaner.terms import Terms as CleanerTerms
from asynch.executors import Executor, Follower
from asynch.secretbox import SecretBox
from asynch.service.documents import Documents
from asynch.spans import Tracer
from asynch.storage import Storage
from asynch.store.workers import Retention
from asynch.worker.outcomes import Terms
from asynch.worker.poller import Limits
from asynch.worker.processing import Workshop
from asynch.worker.registering import Registry
from asynch.worker.tmpdir import TmpDir


@dataclass(frozen=True, slots=True)
class Setup:
    """What every incarnation is made from."""

    dsn: str
    lock_dsn: str
    limits: Limits
    longest_call_s: float
    uploaders: int
    drain_timeout_s: float
    max_crashes: int
    keep: Retention
    terms: Terms
    cleaner: CleanerTerms | None  #: None where cleaner.enabled is false
    executor: Executor  #: of calls of models
    webhooks: Executor
    broker: Executor | None  #: None: what is published stays in the database
    workshop: Workshop
    registry: Registry
    follower: Follower
    storage: Storage
    box: SecretBox
    tmp: TmpDir
    media_processes: int
    part_ttl_s: float
    public_url: str
    documents: Documents
    tracer: Tracer
