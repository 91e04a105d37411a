"""What a rule may say, where that depends on its other members, on this installation or on what the tenant has."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass, replace

from pydantic import ValidationError

from asynch.db import Connection
from asynch.domain.chains import check_chain
from asynch.domain.rawjson import pointer
from asynch.domain.rules import RetryStrategy, WrongCondition, compiled
from asynch.errors import InvalidInput, Mistake
from asynch.media.processors import PROCESSORS
from asynch.service.webhooks import Webhooks
from asynch.store import models
from asynch.store import rules as store
from asynch.store.rules import ON, RuleSpec

#: Who does the work, by executeMode.
QUEUE, WEBHOOK, PROCESSOR = 1, 2, 3
#: What stands before a model's name where a rule has it called.
MODEL = "model:"
_TOPIC = re.compile(r"[A-Za-z0-9._-]{1,128}")


@dataclass(frozen=True, slots=True)
class Checks:
    """One rule that is about to be saved: `former` is what it said, None of a new one."""

    conn: Connection
    webhooks: Webhooks
    tenant_id: int
    rule_id: int | None = None
    former: RuleSpec | None = None

    def checked(self, spec: RuleSpec) -> RuleSpec:
        """The rule as it is stored. InvalidInput with every mistake in it.

        What it said before is not looked at again, so that a rule can be turned off whose model is gone; when it
        is turned on, its target is.
        """
        mistakes = [*_condition(spec), *_strategy(spec), *self._waiting(spec)]
        if spec.after_id is not None and (self.former is None or spec.after_id != self.former.after_id):
            mistakes += self._after(spec.after_id)
        if self._has_new_target(spec):
            try:
                spec = self._targeted(spec)
            except InvalidInput as exc:
                mistakes += exc.mistakes
        if mistakes:
            raise InvalidInput(mistakes)
        return spec

    def _waiting(self, spec: RuleSpec) -> Iterator[Mistake]:
        """A processor and a model answer themselves: nobody is told where a result may be posted."""
        if not spec.await_result or spec.execute_mode != PROCESSOR:
            return
        if self.former is None or (self.former.await_result, self.former.execute_mode) != (True, PROCESSOR):
            yield Mistake("#/awaitResult", "only executeMode 1 and 2 wait for a result that is posted")

    def _has_new_target(self, spec: RuleSpec) -> bool:
        former = self.former
        if former is None or (spec.status == ON and former.status != ON):
            return True
        told = (spec.execute_mode, spec.target_url, spec.options)
        return told != (former.execute_mode, former.target_url, former.options)

    def _after(self, after_id: int) -> Iterator[Mistake]:
        if store.find_rule(self.conn, tenant_id=self.tenant_id, rule_id=after_id) is None:
            yield Mistake("#/after", "there is no such rule")
            return
        try:
            check_chain(store.parents(self.conn, self.tenant_id), self.rule_id, after_id)
        except ValueError as exc:
            yield Mistake("#/after", str(exc))

    def _targeted(self, spec: RuleSpec) -> RuleSpec:
        if spec.execute_mode == PROCESSOR:
            self._check_processor(spec)
            return spec
        if spec.options != "{}":
            raise InvalidInput([Mistake("#/options", "only executeMode 3 has options")])
        if spec.execute_mode == WEBHOOK:
            target = self.webhooks.check(spec.target_url, "#/targetUrl")
            self.webhooks.ensure_secret(self.conn, self.tenant_id)
            return replace(spec, target_url=target)
        if not _TOPIC.fullmatch(spec.target_url):
            raise InvalidInput([Mistake("#/targetUrl", "expected a topic: 1 to 128 letters, digits, dots, _ or -")])
        return spec

    def _check_processor(self, spec: RuleSpec) -> None:
        name = spec.target_url
        if name.startswith(MODEL):
            model = models.find_model(self.conn, tenant_id=self.tenant_id, id=None, name=name.removeprefix(MODEL))
            if model is None:
                raise InvalidInput([Mistake("#/targetUrl", "there is no such model")])
            return
        if name not in PROCESSORS:
            known = ", ".join(PROCESSORS)
            raise InvalidInput([Mistake("#/targetUrl", f"expected one of {known}, or {MODEL} and a model's name")])
        try:
            PROCESSORS[name].options.model_validate(json.loads(spec.options))
        except ValidationError as exc:
            found = exc.errors(include_url=False, include_input=False, include_context=False)
            raise InvalidInput(
                [Mistake(pointer(("options", *e["loc"])), e["msg"].removeprefix("Value error, ")) for e in found]
            ) from None


def _condition(spec: RuleSpec) -> Iterator[Mistake]:
    try:
        compiled(json.loads(spec.trigger_condition))
    except WrongCondition as exc:
        for mistake in exc.mistakes:
            yield replace(mistake, pointer="#/triggerCondition" + mistake.pointer.removeprefix("#"))


def _strategy(spec: RuleSpec) -> Iterator[Mistake]:
    try:
        RetryStrategy.parse(spec.retry_strategy)
    except ValueError as exc:
        yield Mistake("#/retryStrategy", str(exc))
