"""Signed links: who has one may do the one thing that it is for, until it expires."""

from __future__ import annotations

from collections.abc import Mapping
from time import time

from asynch.errors import Forbidden
from asynch.secretbox import SecretBox

#: What a link for the result of an action is for.
RESULT = "result"
#: It outlives the wait for the result by this: who comes then hears that he is late, and not that the link is forged.
_GRACE_S = 86_400


def to_result(box: SecretBox, base_url: str, *, tenant_id: int, action_id: int, patience_s: int) -> str:
    """Where the result of an action may be posted, by whoever has this."""
    query = signed(box, RESULT, action_id, {"tenant": tenant_id}, until=time() + patience_s + _GRACE_S)
    return f"{base_url}/action/{action_id}/result?{query}"


def signed(box: SecretBox, purpose: str, id: int, fields: Mapping[str, int], *, until: float) -> str:
    """The query of a link about this id; `until` is seconds since 1970."""
    told = {**fields, "expires": int(until)}
    signature = box.sign(purpose, _message(id, *map(str, told.values())))
    return "&".join(f"{name}={value}" for name, value in told.items()) + f"&signature={signature}"


def check(box: SecretBox, purpose: str, id: int, names: tuple[str, ...], query: Mapping[str, str]) -> tuple[int, ...]:
    """The fields of these names, as they were signed. Forbidden when the link was altered or is too old."""
    told = [query.get(name, "") for name in (*names, "expires")]
    if not box.verify(purpose, _message(id, *told), query.get("signature", "")):
        raise Forbidden("The link is unsigned or was altered.", code="link_invalid")
    if int(told[-1]) <= time():
        raise Forbidden("The link has expired.", code="link_expired")
    return tuple(int(each) for each in told[:-1])


def _message(id: int, *fields: str) -> bytes:
    return " ".join((str(id), *fields)).encode(errors="replace")  # numbers: none can run into the next
