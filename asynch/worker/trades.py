"""The kinds of work, by the scheme of a lane's target: how a claim becomes an order, and who carries it out."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

from asynch.domain import bindings
from asynch.executors import Executor, Order
from asynch.secretbox import SecretBox
from asynch.service.lanes import SCHEME
from asynch.service.letters import Letters
from asynch.service.targets import bound_headers
from asynch.store.queue import Claim


@dataclass(frozen=True, slots=True)
class Trade:
    """One kind of work."""

    order: Callable[[Claim], Order]
    executor: Executor


def trades(
    *,
    models: Executor,
    webhooks: Executor,
    local: Executor,
    broker: Executor,
    box: SecretBox,
    progress_url: Callable[[Claim], str],
    letters: Letters,
) -> Mapping[str, Trade]:
    """Every kind; `progress_url` is where the model of a claim may tell of its progress."""
    model = Trade(partial(_model_order, box, progress_url, letters), models)
    webhook = Trade(partial(_delivery_order, letters), webhooks)
    return {
        "http": model,
        "https": model,
        "webhook+http": webhook,
        "webhook+https": webhook,
        SCHEME: Trade(_order, local),
        "broker": Trade(partial(_message_order, letters), broker),
    }


def _order(claim: Claim, **own: Any) -> Order:
    """What the task and its lane say, but for what is the trade's `own`.

    Of work on files the input is a place, and the payload options.
    """
    told: dict[str, Any] = {
        "task_id": claim.task_id,
        "attempt": claim.attempt,
        "url": claim.target.base_url,
        "method": "POST",
        "payload": claim.payload,
        "input_ref": claim.input_ref,
        "headers": {},
        "timeout_s": claim.target.timeout_s,
        "max_bytes": claim.target.max_bytes,
        "owner_id": claim.owner_id,
    }
    return Order(**(told | own))


def _model_order(box: SecretBox, progress_url: Callable[[Claim], str], letters: Letters, claim: Claim) -> Order:
    target, payload = claim.target, claim.payload
    if claim.is_systems and payload is not None:
        payload = letters.asked(payload)
    return _order(
        claim,
        attempt=claim.call_attempt or claim.attempt,
        url=bindings.join(target.base_url, target.route),
        method=target.method,
        payload=payload,
        headers=bound_headers(box, claim.owner_id, target.api_key),
        progress_url="" if claim.poll_url else progress_url(claim),
    )


def _delivery_order(letters: Letters, claim: Claim) -> Order:
    """A delivery is a task whose input is the receiver's URL."""
    letter = letters.written(claim.tenant_id, claim.id, claim.payload or "{}")
    return _order(
        claim,
        task_id=letter.about,
        url=claim.input_ref or "",
        payload=letter.text,
        input_ref=None,
        headers=letter.headers,
        idempotency_key=letter.id,
    )


def _message_order(letters: Letters, claim: Claim) -> Order:
    """What is published is a task whose input is the topic."""
    letter = letters.unsigned(claim.tenant_id, claim.id, claim.payload or "{}")
    return _order(claim, payload=letter.text, idempotency_key=letter.id)
