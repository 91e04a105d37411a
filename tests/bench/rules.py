"""How long a file waits for 1,000 rules to be looked at: the first one in a process, and any later one."""

from __future__ import annotations

from datetime import UTC, datetime
from statistics import median
from time import process_time
from typing import Any

from asynch.domain.rules import FileFacts
from asynch.service.rules import matching
from asynch.store.rules import Rule, RuleSpec, as_text
from tests.bench.figures import Figure
from tests.bench.place import Bench

RULES, FILES = 1000, 200
_FACTS = FileFacts(
    "holiday in a far country.mp4", "mp4", "video/mp4", 5_000_000, frozenset({"sea", "boat"}), "lesson", "7"
)


def run(_: Bench) -> list[Figure]:
    """Rules of one to four operators, and rules of all eight that all hold."""
    mixed, full = [_rule(n, _mixed(n)) for n in range(RULES)], [_rule(n, _full(n)) for n in range(RULES)]
    return [*_measured("some operators", mixed), *_measured("every operator", full)]


def _measured(name: str, rules: list[Rule]) -> list[Figure]:
    first_ms = _once(rules, "first")
    later_ms = [_once(rules, str(n)) for n in range(FILES)]
    return [
        Figure(f"{RULES:,} rules of {name}, first file", first_ms, "ms"),
        Figure(f"{RULES:,} rules of {name}", median(later_ms), "ms", 5.0, at_most=True),
    ]


def _once(rules: list[Rule], identity: str) -> float:
    began = process_time()
    matching(rules, _FACTS, identity)
    return (process_time() - began) * 1000


def _mixed(n: int) -> dict[str, Any]:
    parts: list[dict[str, Any]] = [
        {"mime": ["image/*", "video/*"]}, {"size_gt": "1KiB", "size_lt": "10GiB"}, {"tags_any": ["sea", f"t{n}"]},
        {"name": [f"*{n}*", "*.mp4"]}, {"ext": ["mp4", "mov"]},
    ]  # fmt: skip
    return parts[n % 5] | parts[n // 5 % 5]


def _full(n: int) -> dict[str, Any]:
    return {
        "mime": "video/*", "size_gt": n, "size_lt": "1GiB", "ext": "mp4", "scene": "lesson", "tags_any": ["sea"],
        "tags_all": ["sea", "boat"], "name": "holi?ay*.mp4",
    }  # fmt: skip


def _rule(n: int, condition: dict[str, Any]) -> Rule:
    now = datetime.now(UTC)
    spec = RuleSpec(
        action_name=f"r{n}",
        execute_mode=3,
        target_url="video.cover",
        trigger_condition=as_text(condition),
        rollout_percent=50 if n % 2 else 100,
    )
    return Rule(n + 1, 1, 1, "bench", now, "bench", now, spec)
