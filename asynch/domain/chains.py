"""Rules that come after others: no rule after itself, and no chain without end."""

from __future__ import annotations

from collections.abc import Mapping

#: So many rules may come one after the other.
LONGEST_CHAIN = 8


def check_chain(parents: Mapping[int, int], rule_id: int | None, after: int) -> None:
    """ValueError where a rule (None: a new one) cannot come after another; `parents` has no cycle yet."""
    links = {child: parent for child, parent in parents.items() if child != rule_id}
    above = _length_up(links, after, stop=rule_id)
    below = 0 if rule_id is None else _height(links, rule_id)
    if above + 1 + below > LONGEST_CHAIN:
        raise ValueError(f"more than {LONGEST_CHAIN} rules would come one after the other")


def _length_up(links: Mapping[int, int], rule: int, *, stop: int | None) -> int:
    """How many rules end with this one."""
    length, at = 0, rule
    while True:
        if at == stop:
            raise ValueError("the rule would come after itself")
        length += 1
        if at not in links or length > LONGEST_CHAIN:
            return length
        at = links[at]


def _height(links: Mapping[int, int], rule: int) -> int:
    """How many rules come one after the other below this one."""
    level, height = {rule}, -1
    while level:
        level = {child for child, parent in links.items() if parent in level}
        height += 1
    return height
