"""The kinds of work, by the scheme of a lane's target: how a claim becomes an order, and who carries it out."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial

from asynch.domain import bindings
from asynch.executors import Executor, Order
from asynch.secretbox import SecretBox
from asynch.service.letters import Letters
from asynch.service.targets import bound_headers
from asynch.store.queue import Along, Claim, Outcome
from asynch.worker.processing import SCHEME
from asynch.worker.registering import Registry


@dataclass(frozen=True, slots=True)
class Trade:
    """One kind of work."""

    order: Callable[[Claim], Order]
    executor: Executor
    #: what an outcome leaves elsewhere than in its row
    mark: Callable[[Outcome], Along | None] | None = None


def trades(
    *,
    models: Executor,
    webhooks: Executor,
    local: Executor,
    broker: Executor,
    registry: Registry,
    box: SecretBox,
    progress_url: Callable[[Claim], str],
    letters: Letters,
) -> Mapping[str, Trade]:
    """Every kind; `progress_url` is where the model of a claim may tell of its progress."""
    model = Trade(partial(_model_order, box, progress_url, letters), models, registry.mark)
    webhook = Trade(partial(_delivery_order, letters), webhooks, registry.mark)
    return {
        "http": model,
        "https": model,
        "webhook+http": webhook,
        "webhook+https": webhook,
        SCHEME: Trade(_work_order, local, registry.mark),
        "broker": Trade(partial(_message_order, letters), broker, registry.mark),
    }


def _model_order(box: SecretBox, progress_url: Callable[[Claim], str], letters: Letters, claim: Claim) -> Order:
    target, payload = claim.target, claim.payload
    if claim.is_systems and payload is not None:
        payload = letters.asked(payload)
    return Order(
        task_id=claim.task_id,
        attempt=claim.call_attempt or claim.attempt,
        url=bindings.join(target.base_url, target.route),
        method=target.method,
        payload=payload,
        input_ref=claim.input_ref,
        headers=bound_headers(box, claim.owner_id, target.api_key),
        timeout_s=target.timeout_s,
        max_bytes=target.max_bytes,
        progress_url="" if claim.poll_url else progress_url(claim),
    )


def _delivery_order(letters: Letters, claim: Claim) -> Order:
    """A delivery is a task whose input is the receiver's URL."""
    letter = letters.written(claim.tenant_id, claim.id, claim.payload or "{}")
    return Order(
        task_id=letter.about,
        attempt=claim.attempt,
        url=claim.input_ref or "",
        method="POST",
        payload=letter.text,
        input_ref=None,
        headers=letter.headers,
        timeout_s=claim.target.timeout_s,
        max_bytes=claim.target.max_bytes,
        idempotency_key=letter.id,
    )


def _message_order(letters: Letters, claim: Claim) -> Order:
    """What is published is a task whose input is the topic."""
    letter = letters.unsigned(claim.tenant_id, claim.id, claim.payload or "{}")
    return Order(
        task_id=claim.task_id,
        attempt=claim.attempt,
        url=claim.target.base_url,
        method="POST",
        payload=letter.text,
        input_ref=claim.input_ref,
        headers={},
        timeout_s=claim.target.timeout_s,
        owner_id=claim.owner_id,
        idempotency_key=letter.id,
    )


def _work_order(claim: Claim) -> Order:
    """The input's place is in `input_ref`, options are in the payload."""
    return Order(
        task_id=claim.task_id,
        attempt=claim.attempt,
        url=claim.target.base_url,
        method="POST",
        payload=claim.payload,
        input_ref=claim.input_ref,
        headers={},
        timeout_s=claim.target.timeout_s,
        max_bytes=claim.target.max_bytes,
        owner_id=claim.owner_id,
    )
