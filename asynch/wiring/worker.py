"""Makes a worker's parts from the settings."""

from __future__ import annotations

import socket
from collections.abc import Sequence

from asynch import db, spans
from asynch.cleaner.terms import Terms as CleanerTerms
from asynch.executors.broker import BrokerExecutor
from asynch.executors.egress import Policy
from asynch.executors.http import HttpExecutor
from asynch.executors.webhook import WebhookExecutor
from asynch.incoming import Incoming
from asynch.media import Limits as MediaLimits
from asynch.media.video import Compress
from asynch.service.documents import Documents
from asynch.settings import Settings
from asynch.storage import Storage
from asynch.store.workers import Retention
from asynch.wiring import check_fit, configured_dsn, make_storage, open_box
from asynch.worker.outcomes import Terms
from asynch.worker.poller import Limits
from asynch.worker.processing import Workshop
from asynch.worker.registering import Registry
from asynch.worker.setup import Setup
from asynch.worker.tmpdir import TmpDir


def worker_setup(settings: Settings) -> Setup:
    """What a worker is made from. UserError when it does not fit its database, DatabaseDown."""
    dsn, box, worker = configured_dsn(settings), open_box(settings), settings.worker
    storage = make_storage(settings, box)
    with db.open_small_pool(dsn, name="asynch-worker-start") as pool:
        check_fit(pool, box, storage)
    failed_s = settings.cleaner.failed_retention
    broker_url = settings.broker.url.get_secret_value()
    tmp = TmpDir(settings.tmp_path, max_bytes=worker.tmp_max)
    http = HttpExecutor(_policy(settings, settings.egress.models_allow))
    return Setup(
        dsn=dsn,
        lock_dsn=settings.database.lock_dsn.get_secret_value() or dsn,
        limits=_limits(settings),
        longest_call_s=settings.longest,
        uploaders=worker.uploaders,
        drain_timeout_s=worker.drain_timeout,
        max_crashes=worker.max_crashes,
        keep=Retention(failed_s, settings.queue_timeout),
        terms=Terms(socket.gethostname(), failed_s, settings.cleaner.unfetched_retention),
        cleaner=_cleaner_terms(settings) if settings.cleaner.enabled else None,
        executor=http,
        webhooks=WebhookExecutor(_policy(settings, settings.egress.webhooks_allow)),
        broker=BrokerExecutor(broker_url) if broker_url else None,
        workshop=_workshop(settings, storage, tmp),
        registry=Registry(settings.uploads.covers, tmp),
        follower=http,
        storage=storage,
        box=box,
        tmp=tmp,
        media_processes=settings.media_processes,
        part_ttl_s=settings.uploads.part_ttl,
        public_url=settings.public_url,
        documents=Documents(settings.public_url, storage, settings.storage.urls_last_s),
        tracer=spans.open_tracer(settings.tracing.otlp_endpoint, service="asynch-worker"),
    )


def _limits(settings: Settings) -> Limits:
    worker = settings.worker
    return Limits(
        threads=worker.threads,
        reserve=worker.reserve,
        batch_size=worker.batch_size,
        poll_interval_s=worker.poll_interval,
        timezone=settings.server.timezone,
        tenant_most=settings.limits.tenant_max_concurrency,
    )


def _cleaner_terms(settings: Settings) -> CleanerTerms:
    cleaner = settings.cleaner
    return CleanerTerms(
        interval_s=cleaner.interval,
        queue_timeout_s=settings.queue_timeout,
        failed_retention_s=cleaner.failed_retention,
        op_log_retention_s=cleaner.op_log_retention,
        tmp_host_grace_s=settings.worker.tmp_host_grace,
        delete_results=cleaner.delete_results,
        part_ttl_s=settings.uploads.part_ttl,
    )


def _policy(settings: Settings, allowed: Sequence[str]) -> Policy:
    return Policy.parse(allowed, settings.egress.deny, allow_loopback=settings.egress_allow_loopback)


def _workshop(settings: Settings, storage: Storage, tmp: TmpDir) -> Workshop:
    return Workshop(
        Incoming(settings.tmp_path),
        storage,
        tmp,
        MediaLimits(output_bytes=settings.uploads.max_size),
        Compress.model_validate(settings.media.model_dump(include={"crf", "audio_bitrate", "keep"})),
        settings.uploads.types,
        settings.uploads.scan_command,
    )
