"""Who is calling: each mode's way from a request to a principal; what a principal may do is the services' matter."""

from __future__ import annotations

import base64
import json
import re
from collections.abc import Callable, Mapping
from ipaddress import ip_address, ip_network
from time import monotonic
from typing import Annotated, cast

from flask import Flask, g, request
from pydantic import BaseModel, ConfigDict, Field
from pydantic.alias_generators import to_camel

from asynch.domain.principal import Caller, Principal, Role
from asynch.errors import Forbidden, Unauthenticated, UserError
from asynch.service.keys import KeyRing
from asynch.settings import Settings
from asynch.shapes import is_loopback
from asynch.web import Parts, parts
from asynch.web.bodies import TenantId, Text

#: blueprints without a principal: probes, documentation, and files and progress, whose links are signed
OPEN = frozenset({"health", "files", "progress", "docs"})
#: blueprints for callers on this machine, and for admins
LOCAL = frozenset({"metrics"})
#: a proxy on this machine makes its callers look local; every usual one says that it is there
_PROXIED = ("Forwarded", "X-Forwarded-For", "X-Real-Ip", "Via")

_HOST = re.compile(r"(\[[0-9A-Fa-f:.]+\]|[^:\[\]@/]+)(?::[0-9]+)?")

Authenticate = Callable[[], Principal]


def register(app: Flask, made_of: Parts) -> None:
    """Give every request but those to open blueprints a principal. UserError for a mode that is not there."""
    check_mode(made_of.settings)
    authenticate = MODES[made_of.settings.auth.mode](made_of)

    @app.before_request
    def _authenticate() -> None:
        if request.blueprint in OPEN or (request.blueprint in LOCAL and _is_local()):
            return
        g.principal = authenticate()
        if request.blueprint in LOCAL and not principal().is_admin:
            raise Forbidden("This is for admins.")


def check_mode(settings: Settings) -> None:
    """UserError for a mode that is not there."""
    if settings.auth.mode not in MODES:
        raise UserError(f"auth.mode = {settings.auth.mode!r}: not available yet, expected none or apikey")


def _is_local() -> bool:
    """Whether the caller is on this machine, and no web page in a browser there."""
    if not is_loopback(request.remote_addr or "") or any(name in request.headers for name in _PROXIED):
        return False
    try:
        _refuse_web_pages(frozenset())
    except Forbidden:
        return False
    return True


def principal() -> Principal:
    """Who makes this request."""
    return cast(Principal, g.principal)


def caller() -> Caller:
    """The principal and where the request comes from, for the op log."""
    return Caller(
        principal=principal(),
        ip=client_ip(),
        user_agent=(request.user_agent.string or "")[:512].replace("\0", ""),
        path=request.path,
        method=request.method,
        since=g.since,
    )


def named_tenant(asked: int | None) -> int:
    """The tenant a list is about: the principal's own, or for admins the one they ask for."""
    mine = principal()
    if asked is None or asked == mine.tenant_id:
        return mine.tenant_id
    if not mine.is_admin:
        raise Forbidden("Only an admin may name another tenant.")
    return asked


def client_ip() -> str:
    """The nearest address on the way here that is not one of the trusted proxies."""
    trusted = [ip_network(text, strict=False) for text in parts().settings.server.trusted_proxies]
    hops = [hop.strip() for hop in request.headers.get("X-Forwarded-For", "").split(",") if hop.strip()]
    nearest = request.remote_addr or ""
    try:
        while hops and any(ip_address(nearest) in network for network in trusted):
            nearest = str(ip_address(hops.pop()))
    except ValueError:  # a hop that is no address says nothing about where the request comes from
        pass
    return nearest


class UserInfo(BaseModel):
    """X-User-Info: a JSON object, plain or as base64."""

    model_config = ConfigDict(alias_generator=to_camel, extra="ignore", hide_input_in_errors=True)

    tenant_id: TenantId
    user_name: Annotated[Text, Field(max_length=128)] = ""
    role: Role | None = None


def _trusting(made_of: Parts) -> Authenticate:
    """Whoever can reach this machine is believed, so no web page may speak for them."""
    allowed = frozenset(made_of.settings.server.cors_origins)

    def authenticate() -> Principal:
        _refuse_web_pages(allowed)
        text = request.headers.get("X-User-Info")
        if text is None:
            return Principal(tenant_id=0, user="", role=Role.ADMIN)
        info = user_info(text)
        return Principal(info.tenant_id, info.user_name, info.role or Role.ADMIN)

    return authenticate


def user_info(text: str) -> UserInfo:
    """Read the header X-User-Info; Unauthenticated when it is neither JSON nor base64 of it."""
    try:
        raw = text.encode("latin-1")  # WSGI hands over bytes as if they were latin-1
        plain = raw if raw.lstrip().startswith(b"{") else base64.b64decode(raw, validate=True)
        return UserInfo.model_validate(json.loads(plain))
    except (ValueError, RecursionError) as exc:
        raise Unauthenticated("X-User-Info must be JSON, or base64 of JSON, with a tenantId.") from exc


def _refuse_web_pages(allowed: frozenset[str]) -> None:
    """A page in a browser on this machine may reach us, also under a name of its own (DNS rebinding)."""
    host = _HOST.fullmatch(request.headers.get("Host", ""))
    if host is None or not is_loopback(host[1].strip("[]")):
        raise Forbidden("Without authentication only requests to a loopback host are served.", code="host_not_allowed")
    origin = request.headers.get("Origin")
    if origin in allowed:
        return
    if origin is not None and origin.partition("://")[2] != host[0]:
        raise Forbidden("Requests from another origin are not served.", code="origin_not_allowed")
    if request.headers.get("Sec-Fetch-Site") in ("cross-site", "same-site"):
        raise Forbidden("Requests from another site are not served.", code="origin_not_allowed")


def _by_key(made_of: Parts) -> Authenticate:
    """`Authorization: Bearer ak_<id>_<secret>`."""
    ring = KeyRing(made_of.pool, clock=monotonic)

    def authenticate() -> Principal:
        scheme, _, token = request.headers.get("Authorization", "").partition(" ")
        found = ring.principal_of(token.strip()) if scheme.lower() == "bearer" else None
        if found is None:
            raise Unauthenticated("A valid API key is needed: Authorization: Bearer ak_…")
        return found

    return authenticate


MODES: Mapping[str, Callable[[Parts], Authenticate]] = {"none": _trusting, "apikey": _by_key}
