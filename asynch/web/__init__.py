"""The HTTP face: parses, asks a service, answers; no SQL, and nothing below it knows a status."""

from __future__ import annotations

import threading
from dataclasses import dataclass
from functools import cached_property
from typing import cast

from flask import current_app

from asynch.db import Pool, dsn_of
from asynch.executors.egress import Policy
from asynch.executors.http import HttpExecutor
from asynch.incoming import Incoming
from asynch.metrics import ApiMeter
from asynch.secretbox import SecretBox
from asynch.service.announcer import Announcer
from asynch.service.creation import Creation
from asynch.service.direct import Direct
from asynch.service.documents import Documents
from asynch.service.feed import Feed
from asynch.service.pace import Paces
from asynch.service.progress import Progress
from asynch.service.rates import Rates
from asynch.service.resumable import Resumable
from asynch.service.rooms import Rooms
from asynch.service.survey import Surveyor
from asynch.service.tasks import Tasks
from asynch.service.trial import Trials
from asynch.service.uploads import Uploads
from asynch.service.webhooks import Webhooks
from asynch.settings import Settings
from asynch.spans import OFF, Tracer
from asynch.storage import Storage
from asynch.store import news


@dataclass(frozen=True)
class Parts:
    """What every request of one process works with."""

    settings: Settings
    pool: Pool
    box: SecretBox
    storage: Storage
    tracer: Tracer = OFF

    @cached_property
    def model_policy(self) -> Policy:
        """Where models may live."""
        egress = self.settings.egress
        return Policy.parse(egress.models_allow, egress.deny, allow_loopback=self.settings.egress_allow_loopback)

    @cached_property
    def creation(self) -> Creation:
        """Creates tasks."""
        chosen = self.settings
        announcer = Announcer(self.pool, news.announce)
        return Creation(
            self.pool,
            announcer,
            Rooms(),
            self.webhooks,
            chosen.queue_timeout,
            chosen.op_log.payloads,
            chosen.server.timezone,
            chosen.limits.tenant_queue_limit,
        )

    @cached_property
    def webhooks(self) -> Webhooks:
        """Looks after callbacks."""
        egress = self.settings.egress
        policy = Policy.parse(egress.webhooks_allow, egress.deny, allow_loopback=self.settings.egress_allow_loopback)
        return Webhooks(self.pool, self.box, policy)

    @cached_property
    def documents(self) -> Documents:
        """Tells of tasks."""
        return Documents(self.settings.public_url, self.storage, self.settings.storage.urls_last_s)

    @cached_property
    def trials(self) -> Trials:
        """Tests models."""
        chosen = self.settings
        return Trials(
            pool=self.pool,
            lock_dsn=chosen.database.lock_dsn.get_secret_value() or dsn_of(self.pool),
            executor=HttpExecutor(self.model_policy),
            box=self.box,
            longest_s=chosen.longest,
            timezone=chosen.server.timezone,
            users_manage=chosen.auth.users_manage_models,
            log_payloads=chosen.op_log.payloads,
            tenant_most=chosen.limits.tenant_max_concurrency,
        )

    @cached_property
    def meter(self) -> ApiMeter:
        """Counts what this process does."""
        return ApiMeter()

    @cached_property
    def surveyor(self) -> Surveyor:
        """Looks at the whole queue, past any transaction pooler."""
        database = self.settings.database
        return Surveyor((database.lock_dsn or database.dsn).get_secret_value())

    @cached_property
    def progress(self) -> Progress:
        """Takes what models say of their progress."""
        return Progress(self.pool, self.changes)

    @cached_property
    def tasks(self) -> Tasks:
        """Reads and changes tasks."""
        seats = threading.BoundedSemaphore(max(1, self.settings.server.threads // 2))
        return Tasks(self.pool, self.settings.cleaner.failed_retention, self.settings.queue_timeout, self.feed, seats)

    @cached_property
    def reads(self) -> Rates:
        """How often a tenant may ask; each process takes its part of the whole."""
        return Rates("reads", _part(self.settings.limits.reads_per_minute, self.settings.server.processes))

    @cached_property
    def creates(self) -> Rates:
        """How often a tenant may create."""
        return Rates("creates", _part(self.settings.limits.creates_per_minute, self.settings.server.processes))

    @cached_property
    def upload_rates(self) -> Rates:
        """How often a tenant may upload."""
        rate = self.settings.uploads.per_tenant_rate
        return Rates("uploads", _part(rate.count, self.settings.server.processes), int(rate.per_s))

    @cached_property
    def uploads(self) -> Uploads:
        """Takes files."""
        chosen = self.settings
        return Uploads(
            self.pool,
            Incoming(chosen.tmp_path),
            self.storage,
            chosen.uploads.types,
            chosen.uploads.max_size,
            chosen.worker.tmp_host_grace,
        )

    @cached_property
    def resumable(self) -> Resumable:
        """Takes files in pieces."""
        return Resumable(self.uploads, self.settings.uploads.part_ttl)

    @cached_property
    def direct(self) -> Direct:
        """Takes files that are in storage already."""
        return Direct(self.uploads, self.settings.uploads.part_ttl)

    @cached_property
    def paces(self) -> Paces:
        """How long calls take."""
        return Paces(self.pool)

    @cached_property
    def feed(self) -> Feed:
        """Hears of changes to tasks."""
        return Feed(self.settings.database.lock_dsn.get_secret_value() or dsn_of(self.pool), self.pool)

    @cached_property
    def changes(self) -> Announcer:
        """Tells of changes to tasks."""
        return Announcer(self.pool, news.announce_changed, pause_s=0.05)


def _part(whole: int, processes: int) -> int:
    return -(-whole // processes)


def parts() -> Parts:
    """The parts of the application that serves this request."""
    return cast(Parts, current_app.extensions["asynch"])
