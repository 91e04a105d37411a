"""/action/{actionId}/result: what became of an action, behind the signed link that its message brought."""

from __future__ import annotations

from typing import Annotated, Any

from flask import Blueprint, request
from flask.typing import ResponseReturnValue
from pydantic import Field

from asynch.domain.ids import number_of
from asynch.service import results
from asynch.service.results import Result
from asynch.web import parts
from asynch.web.bodies import Body, Text, read_json
from asynch.web.rule_bodies import document

bp = Blueprint("results", __name__)

#: of an output, bytes of JSON
MAX_OUTPUT = 65_536


class ResultIn(Body):
    """Whether it went well, what came of it, or why nothing did."""

    success: bool
    output: Annotated[Any, document(MAX_OUTPUT)] = None
    error: Annotated[Text, Field(max_length=2048)] = ""


@bp.post("/action/<id:action_id>/result")
def post_result(action_id: str) -> ResponseReturnValue:
    """204; 403 for a link that is altered or too old, 409 when the action has a result or has ended without one."""
    number = number_of(action_id)
    tenant_id = results.check(parts().box, number, request.args)
    told = read_json(ResultIn, limit=2 * MAX_OUTPUT)
    result = Result(told.success, told.output, told.error)
    results.post(parts().pool, tenant_id=tenant_id, action_id=number, result=result)
    return "", 204
