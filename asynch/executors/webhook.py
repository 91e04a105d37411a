"""One attempt to deliver a callback: any 2xx is its receipt, anything else is worth another try, but for 410."""

from __future__ import annotations

from typing import BinaryIO

from asynch.errors import CallCut, ExecutorError
from asynch.executors import Call, Done, Order
from asynch.executors.egress import Policy
from asynch.executors.http import HttpExecutor

_GONE = 410


class WebhookExecutor:
    """Posts messages to receivers (Standard Webhooks 1.0.0); what they say and prove is the order's matter."""

    def __init__(self, policy: Policy) -> None:
        self._http = HttpExecutor(policy)

    def run(self, order: Order, out: BinaryIO, call: Call) -> Done:  # noqa: ARG002 - there is no result
        """Deliver. Raises ExecutorError, which is transient unless the receiver wants no more of it."""
        try:
            return Done(self._http.post(order, call))
        except CallCut:
            raise
        except ExecutorError as error:
            error.transient = error.http_status != _GONE
            raise
