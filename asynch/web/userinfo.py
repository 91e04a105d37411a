"""The header X-User-Info: who a request is made for, in the words of whoever may say so."""

from __future__ import annotations

import base64
import json
from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field
from pydantic.alias_generators import to_camel

from asynch.domain.principal import Principal, Role
from asynch.errors import Unauthenticated
from asynch.web.bodies import TenantId, Text


class UserInfo(BaseModel):
    """A JSON object, plain or as base64."""

    model_config = ConfigDict(alias_generator=to_camel, extra="ignore", hide_input_in_errors=True)

    tenant_id: TenantId
    user_name: Annotated[Text, Field(max_length=128)] = ""
    role: Role | None = None

    def principal(self, *, otherwise: Role) -> Principal:
        """Whom it names; `otherwise` is their role where it says none."""
        return Principal(self.tenant_id, self.user_name, self.role or otherwise)


def read_user_info(text: str) -> UserInfo:
    """Read the header; Unauthenticated when it is neither JSON nor base64 of it."""
    try:
        raw = text.encode("latin-1")  # WSGI hands over bytes as if they were latin-1
        plain = raw if raw.lstrip().startswith(b"{") else base64.b64decode(raw, validate=True)
        return UserInfo.model_validate(json.loads(plain))
    except (ValueError, RecursionError) as exc:
        raise Unauthenticated("X-User-Info must be JSON, or base64 of JSON, with a tenantId.") from exc
