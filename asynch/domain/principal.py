"""Who calls: the tenant, the user and the role; how they proved it is the web layer's matter."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum

from asynch.errors import Forbidden


class Role(StrEnum):
    """What a principal may do."""

    USER = "user"  #: its own tenant's models, tasks, files and statistics
    ADMIN = "admin"  #: also rules, keys, logs and deliveries, and naming a tenant in lists


@dataclass(frozen=True, slots=True)
class Principal:
    """On whose behalf a request acts."""

    tenant_id: int
    user: str
    role: Role

    @property
    def is_admin(self) -> bool:
        """Whether it may do what only admins may."""
        return self.role is Role.ADMIN

    def expect_admin(self) -> None:
        """Forbidden for all but admins."""
        if not self.is_admin:
            raise Forbidden("This is for admins.")


@dataclass(frozen=True, slots=True)
class Caller:
    """A principal and the request it makes, as the op log tells them, but for its headers."""

    principal: Principal
    ip: str = ""
    user_agent: str = ""
    path: str = ""
    method: str = ""
    since: float = 0.0  #: when the request began, of monotonic()
    trace_context: str = ""  #: of the request, packed
    upload_headers: str = field(default="", repr=False)  #: what the uploads of its tasks need of its headers, sealed


def served_by(tenant_id: int) -> int:
    """The tenant under which the system does its own work for this one, and back.

    Tenants are never negative, so that no reader, limit or statistics of a tenant meets what is done on its behalf.
    """
    return ~tenant_id
