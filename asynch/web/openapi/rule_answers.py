"""The shapes of what is answered about rules."""

from __future__ import annotations

from typing import Any, Literal

from asynch.web.openapi.answers import Answer, Anything, IdText, Time


class RuleId(Answer):
    """The rule that was meant."""

    id: IdText


class RuleVersion(RuleId):
    """The rule that was meant, and its present version."""

    version: int


class RuleTold(Answer):
    """What is to be done with files that meet it."""

    id: IdText
    tenant_id: str
    action_name: str
    action_type: str
    upload_id: str
    scene: str
    trigger_condition: dict[str, Any]
    execute_mode: Literal[1, 2, 3]
    target_url: str
    retry_strategy: str
    delay_seconds: int
    after: IdText | None
    rollout_percent: int
    version: int
    status: Literal[1, 9]
    await_result: bool
    timeout_seconds: int
    options: dict[str, Any]
    creator: str
    created_at: Time
    modifier: str
    updated_at: Time


class RuleList(Answer):
    """A page of rules."""

    list: list[RuleTold]
    total: int


class ConditionChecked(Answer):
    """One condition, and what a file has to say to it."""

    operator: str
    wanted: Anything
    found: Anything
    holds: bool


class RuleJudged(Answer):
    """What a rule says to a file."""

    id: IdText
    action_name: str
    version: int
    after: IdText | None
    matches: bool
    rollout: bool | None
    checks: list[ConditionChecked]


class RulesJudged(Answer):
    """What each rule says to a file."""

    list: list[RuleJudged]


class TryTold(Answer):
    """One try of an action."""

    id: IdText
    created_at: Time
    task_id: IdText
    file_id: IdText
    rule_id: IdText
    version: int
    action_name: str
    attempt: int
    outcome: Literal["completed", "delivered", "failed"]
    seconds: float | None
    error_msg: str


class TryList(Answer):
    """A page of tries."""

    list: list[TryTold]
    total: int
    total_capped: bool
