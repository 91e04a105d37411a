"""/task/{taskId}/progress: a running model's word on its progress, behind the signed link that its call brought."""

from __future__ import annotations

from typing import Annotated

from flask import Blueprint, request
from flask.typing import ResponseReturnValue
from pydantic import ConfigDict, Field, model_validator

from asynch.domain.ids import number_of
from asynch.service.progress import check
from asynch.store.progress import Note
from asynch.web import parts
from asynch.web.bodies import Body, Text, read_json, said

bp = Blueprint("progress", __name__)

_MAX_BODY = 16 * 1024


class ProgressIn(Body):
    """How far it is, and a word for people; what is absent or null stays as it was."""

    model_config = ConfigDict(json_schema_extra={"anyOf": [said("progress"), said("message")]})

    progress: Annotated[float, Field(ge=0, le=100, allow_inf_nan=False)] | None = None
    message: Annotated[Text, Field(max_length=1024)] | None = None

    @model_validator(mode="after")
    def _something(self) -> ProgressIn:
        if self.progress is None and self.message is None:
            raise ValueError("expected progress, message or both")
        return self


@bp.post("/task/<id:task_id>/progress")
def post_progress(task_id: str) -> ResponseReturnValue:
    """204; 403 for a link that is altered or too old, 409 when its call is over, 410 when the task is final."""
    number = number_of(task_id)
    tenant_id, attempt = check(parts().box, number, request.args)
    told = read_json(ProgressIn, limit=_MAX_BODY)
    parts().progress.post(Note(tenant_id, number, attempt, told.progress, told.message))
    return "", 204
