"""What a call needs to know of its model besides its row: the headers bound to it, in the clear."""

from __future__ import annotations

from asynch.domain import bindings
from asynch.errors import ErrorCode, ExecutorError
from asynch.secretbox import SecretBox, SecretError


def bound_headers(box: SecretBox, tenant_id: int, sealed: str) -> dict[str, str]:
    """The headers of a model's sealed api_key; ExecutorError when it cannot be read, which no retry mends."""
    try:
        return bindings.parse(box.open(tenant_id, "api_key", sealed)) if sealed else {}
    except (SecretError, ValueError) as exc:
        raise ExecutorError(ErrorCode.INTERNAL, "the model's apiKey cannot be read", transient=False) from exc
