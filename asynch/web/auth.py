"""Who is calling: each mode's way from a request to a principal; what a principal may do is the services' matter."""

from __future__ import annotations

import hmac
import logging
from collections.abc import Callable, Mapping
from dataclasses import replace
from time import monotonic
from typing import cast

from flask import Flask, g, request

from asynch.domain import sender
from asynch.domain.principal import Caller, Principal, Role
from asynch.errors import Forbidden, Unauthenticated
from asynch.service.guesses import Guesses
from asynch.service.keys import KeyRing, key_id_of
from asynch.service.tokens import TokenRefused, Verifier, keys_of
from asynch.settings import Settings
from asynch.shapes import is_loopback
from asynch.web import Parts, parts, traces
from asynch.web.pages import refuse_web_pages
from asynch.web.peers import client_of, within
from asynch.web.userinfo import read_user_info

logger = logging.getLogger(__name__)

#: blueprints without a principal: probes, documentation, a page without content, and what signed links lead to
OPEN = frozenset({"health", "files", "progress", "results", "docs", "upload_page"})
#: blueprints for callers on this machine, and for admins
LOCAL = frozenset({"metrics"})
#: a proxy on this machine makes its callers look local; every usual one says that it is there
_PROXIED = ("Forwarded", "X-Forwarded-For", "X-Real-Ip", "Via")

Authenticate = Callable[[], Principal]


def register(app: Flask, made_of: Parts) -> None:
    """Give every request but those to open blueprints a principal. UserError for keys that cannot be used."""
    authenticate = MODES[made_of.settings.auth.mode](made_of)

    @app.before_request
    def _authenticate() -> None:
        if request.blueprint in OPEN or (request.blueprint in LOCAL and _is_local()):
            return
        g.principal = authenticate()
        if request.blueprint in LOCAL:
            principal().expect_admin()


def check_mode(settings: Settings) -> None:
    """UserError for a mode whose keys cannot be used."""
    if settings.auth.mode == "jwt":
        _verifier(settings)


def _is_local() -> bool:
    """Whether the caller is on this machine, and no web page in a browser there."""
    if not is_loopback(request.remote_addr or "") or any(name in request.headers for name in _PROXIED):
        return False
    try:
        refuse_web_pages(frozenset())
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
        trace_context=traces.context(),
    )


def creator() -> Caller:
    """The caller, with what storing results for it needs, where the storage asks on whose behalf they come."""
    plain = caller()
    given = sender.forwarded({name: request.headers.get(name) for name in sender.NAMES})
    if not given or parts().settings.storage.backend != "http":
        return plain
    sealed = parts().box.seal(plain.principal.tenant_id, sender.FIELD, sender.packed(given))
    return replace(plain, upload_headers=sealed)


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
    return client_of(
        request.remote_addr or "", request.headers.get("X-Forwarded-For", ""), parts().settings.server.trusted_proxies
    )


def _trusting(made_of: Parts) -> Authenticate:
    """Whoever can reach this machine is believed, so no web page may speak for them."""
    allowed = frozenset(made_of.settings.server.cors_origins)

    def authenticate() -> Principal:
        refuse_web_pages(allowed)
        text = request.headers.get("X-User-Info")
        if text is None:
            return Principal(tenant_id=0, user="", role=Role.ADMIN)
        return read_user_info(text).principal(otherwise=Role.ADMIN)

    return authenticate


def _by_gateway(made_of: Parts) -> Authenticate:
    """X-User-Info, from a trusted proxy itself (what it forwards for does not count) that knows the secret."""
    proxies = made_of.settings.server.trusted_proxies
    secret = made_of.settings.auth.gateway.secret.get_secret_value().encode()
    guesses = Guesses(clock=monotonic)

    def authenticate() -> Principal:
        given = request.headers.get("X-Gateway-Secret", "").encode("latin-1")  # as WSGI decoded it
        is_gateway = hmac.compare_digest(given, secret) and within(request.remote_addr or "", proxies)
        if not is_gateway:
            raise _failure(guesses, "Only the gateway is served here.", tried=bool(given))
        return read_user_info(request.headers.get("X-User-Info", "")).principal(otherwise=Role.USER)

    return authenticate


def _by_key(made_of: Parts) -> Authenticate:
    """`Authorization: Bearer ak_<id>_<secret>`."""
    ring, guesses = KeyRing(made_of.pool, clock=monotonic), Guesses(clock=monotonic)

    def authenticate() -> Principal:
        token = _bearer()
        found = ring.known_principal_of(token)
        if found is None and token:
            guesses.check(client_ip())  # before the query that it costs
            found = ring.principal_of(token)
        if found is None:
            detail = "A valid API key is needed: Authorization: Bearer ak_…"
            raise _failure(guesses, detail, tried=bool(token), key=key_id_of(token))
        return found

    return authenticate


def _by_token(made_of: Parts) -> Authenticate:
    """`Authorization: Bearer <JWT>`. A valid one is believed wherever wrong ones come from too."""
    verifier, guesses = _verifier(made_of.settings), Guesses(clock=monotonic)

    def authenticate() -> Principal:
        token = _bearer()
        try:
            return verifier.principal_of(token)
        except TokenRefused as exc:
            detail = "A valid token is needed: Authorization: Bearer …"
            raise _failure(guesses, detail, tried=bool(token), why=str(exc)) from None

    return authenticate


def _verifier(settings: Settings) -> Verifier:
    jwt = settings.auth.jwt
    return Verifier(keys_of(jwt.jwks_url, jwt.key.get_secret_value()), jwt.issuer, jwt.audience, jwt.tenant_claim)


def _bearer() -> str:
    """The token of the request, empty without one."""
    scheme, _, token = request.headers.get("Authorization", "").partition(" ")
    return token.strip() if scheme.lower() == "bearer" else ""


def _failure(guesses: Guesses, detail: str, *, tried: bool, **told: str) -> Unauthenticated:
    """What to answer to a request that proves nothing, counted and logged if it tried; TooOften instead."""
    if tried:
        address = client_ip()
        guesses.check(address)
        guesses.note(address)
        logger.warning("authentication failed", extra={"client": address, **told})
    return Unauthenticated(detail)


MODES: Mapping[str, Callable[[Parts], Authenticate]] = {
    "none": _trusting,
    "apikey": _by_key,
    "gateway": _by_gateway,
    "jwt": _by_token,
}
