"""Rules on files: what a condition may say, whether a file meets it and why not; rollout; how often to try again."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from fnmatch import translate
from hashlib import sha256
from typing import NamedTuple

from asynch.domain.rawjson import pointer
from asynch.errors import Mistake
from asynch.units import size_bytes

#: A list of a condition has at most so many items, each of at most so many characters.
MOST_ITEMS = 100
LONGEST_ITEM = 256
#: The one member that is no operator: whether files that were made of others fire the rule too.
DERIVED = "derived"
#: Bounds of a retry strategy.
MOST_RETRIES = 20
LONGEST_PAUSE_S = 86_400

_UNSTORABLE = re.compile("[\0\ud800-\udfff]")
_STRATEGY = re.compile(r"([0-9]{1,4})x@([0-9]{1,6})(s|min|h)(?:\.\.([0-9]{1,6})(s|min|h))?")
_UNITS_S = {"s": 1, "min": 60, "h": 3600}
_EXPECTED = "expected a strategy such as 3x@5min or 5x@10s..10min, its pauses in s, min or h"


class WrongCondition(ValueError):
    """A trigger condition that cannot be; each mistake has its place in it."""

    def __init__(self, mistakes: Sequence[Mistake]) -> None:
        super().__init__("; ".join(f"{m.pointer}: {m.detail}" for m in mistakes))
        self.mistakes = tuple(mistakes)


@dataclass(frozen=True, slots=True)
class FileFacts:
    """What conditions may ask of a file."""

    name: str = ""
    ext: str = ""  #: without a dot
    content_type: str = ""
    size: int = 0  #: bytes
    tags: frozenset[str] = frozenset()
    scene: str = ""
    upload_id: str = ""
    is_derived: bool = False  #: made from another file
    # once a file, not once a rule
    mime: str = field(init=False, repr=False, compare=False)
    lower_name: str = field(init=False, repr=False, compare=False)
    lower_ext: str = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "mime", self.content_type.partition(";")[0].strip().lower())
        object.__setattr__(self, "lower_name", self.name.lower())
        object.__setattr__(self, "lower_ext", self.ext.lower())


class Check(NamedTuple):
    """One condition, and what a file has to say to it."""

    operator: str
    wanted: object  #: as the rule says it
    found: object
    holds: bool


Holds = Callable[[FileFacts], bool]


class Operator(NamedTuple):
    """How one operator is read and what of a file it looks at."""

    read: Callable[[object], Holds]  #: raises _Wrong
    found: Callable[[FileFacts], object]


class _Asked(NamedTuple):
    operator: str
    wanted: object
    holds: Holds


@dataclass(frozen=True, slots=True)
class Condition:
    """A compiled trigger condition: all that is asked must hold."""

    derived: bool
    asked: tuple[_Asked, ...]
    held: tuple[Holds, ...]  #: of `asked`: this is gone through for every rule

    def matches(self, facts: FileFacts) -> bool:
        """Whether a file meets it."""
        if facts.is_derived and not self.derived:
            return False
        for holds in self.held:  # noqa: SIM110 - a third of the time of all(): this runs for every rule
            if not holds(facts):
                return False
        return True

    def explained(self, facts: FileFacts) -> list[Check]:
        """Each condition with what was found; `derived` is told where it matters."""
        checks = [Check(name, wanted, OPERATORS[name].found(facts), holds(facts)) for name, wanted, holds in self.asked]
        if self.derived or facts.is_derived:
            checks.append(Check(DERIVED, self.derived, facts.is_derived, self.derived or not facts.is_derived))
        return checks


def compiled(trigger: Mapping[str, object]) -> Condition:
    """Read a trigger condition; `{}` matches all files but derived ones. WrongCondition with every mistake in it."""
    wrong = [
        Mistake(pointer((name,)), "unknown operator") for name in trigger if name not in OPERATORS and name != DERIVED
    ]
    asked = []
    for name, operator in OPERATORS.items():
        if name in trigger:
            try:
                asked.append(_Asked(name, trigger[name], operator.read(trigger[name])))
            except _Wrong as exc:
                wrong += [Mistake(pointer((name, *steps)), detail) for steps, detail in exc.places]
    derived = trigger.get(DERIVED, False)
    if not isinstance(derived, bool):
        wrong.append(Mistake(pointer((DERIVED,)), "expected true or false"))
    if wrong:
        raise WrongCondition(wrong)
    return Condition(derived is True, tuple(asked), tuple(each.holds for each in asked))


def in_rollout(rule_id: int, identity: str, percent: int) -> bool:
    """Whether a file is among the `percent` of all that a rule is tried on; one that is stays when the part grows."""
    if percent >= 100:
        return True
    digest = sha256(f"{rule_id}:{identity}".encode()).digest()
    return int.from_bytes(digest[:8], "big") % 100 < percent


@dataclass(frozen=True, slots=True)
class RetryStrategy:
    """How often and after which pauses a failed action runs again."""

    times: int = 0
    first_s: int = 0
    longest_s: int = 0

    @classmethod
    def parse(cls, text: str) -> RetryStrategy:
        """Read `3x@5min`, or `5x@10s..10min`: doubling from 10 s up to 10 min; empty: never. ValueError."""
        if not text:
            return cls()
        match = _STRATEGY.fullmatch(text)
        if match is None:
            raise ValueError(_EXPECTED)
        times, first_s = int(match[1]), int(match[2]) * _UNITS_S[match[3]]
        longest_s = int(match[4]) * _UNITS_S[match[5]] if match[4] else first_s
        if not 1 <= times <= MOST_RETRIES:
            raise ValueError(f"expected 1 to {MOST_RETRIES} retries")
        if not (1 <= first_s <= LONGEST_PAUSE_S and 1 <= longest_s <= LONGEST_PAUSE_S):
            raise ValueError("expected pauses between 1s and 24h")
        if longest_s < first_s:
            raise ValueError("expected a longest pause that is not below the first")
        return cls(times, first_s, longest_s)

    def pauses_s(self) -> tuple[int, ...]:
        """The pause before each retry, seconds."""
        return tuple(min(self.first_s << n, self.longest_s) for n in range(self.times))


class _Wrong(Exception):
    """What is wrong with the value of one operator, by steps below it."""

    def __init__(self, *places: tuple[tuple[int, ...], str]) -> None:
        super().__init__()
        self.places = places


def _texts(value: object) -> list[str]:
    """A list of texts."""
    if not isinstance(value, list):
        raise _Wrong(((), "expected a list of texts"))
    if not 1 <= len(value) <= MOST_ITEMS:
        raise _Wrong(((), f"expected 1 to {MOST_ITEMS} texts"))
    places = [((index,), wrong) for index, item in enumerate(value) if (wrong := _wrong_text(item))]
    if places:
        raise _Wrong(*places)
    return value


def _one_or_more(value: object) -> list[str]:
    """A text, or a list of them."""
    if isinstance(value, list):
        return _texts(value)
    if wrong := _wrong_text(value):
        raise _Wrong(((), wrong if isinstance(value, str) else "expected a text or a list of texts"))
    return [str(value)]


def _wrong_text(item: object) -> str:
    if not isinstance(item, str):
        return "expected a text"
    if not 1 <= len(item) <= LONGEST_ITEM:
        return f"expected 1 to {LONGEST_ITEM} characters"
    return (
        "holds a character that cannot be stored (NUL or half of a surrogate pair)" if _UNSTORABLE.search(item) else ""
    )


def _globs(value: object) -> Callable[[str], object]:
    """What is true of a text that one of the globs matches."""
    matches = [_glob(glob.lower()) for glob in _one_or_more(value)]
    if len(matches) == 1:
        return matches[0]

    def any_of(text: str) -> bool:
        for match in matches:  # noqa: SIM110 - as in Condition.matches
            if match(text):
                return True
        return False

    return any_of


def _glob(glob: str) -> Callable[[str], object]:
    """Of the usual ones no expression is made: that takes 60 us each, which a first file would wait for."""
    core = glob.strip("*")
    if any(special in core for special in "*?["):
        return re.compile(translate(glob)).match
    if glob.startswith("*"):
        return (lambda text: core in text) if glob.endswith("*") else (lambda text: text.endswith(core))
    return (lambda text: text.startswith(core)) if glob.endswith("*") else (lambda text: text == core)


def _mime(value: object) -> Holds:
    match = _globs(value)
    return lambda facts: bool(match(facts.mime))


def _name(value: object) -> Holds:
    match = _globs(value)
    return lambda facts: bool(match(facts.lower_name))


def _ext(value: object) -> Holds:
    wanted = _one_or_more(value)
    places = [((index,), "expected an extension without a dot") for index, ext in enumerate(wanted) if "." in ext]
    if places:
        raise _Wrong(*(places if isinstance(value, list) else [((), places[0][1])]))
    exts = frozenset(ext.lower() for ext in wanted)
    return lambda facts: facts.lower_ext in exts


def _scene(value: object) -> Holds:
    scenes = frozenset(_one_or_more(value))
    return lambda facts: facts.scene in scenes


def _tags_any(value: object) -> Holds:
    tags = frozenset(_texts(value))
    return lambda facts: not tags.isdisjoint(facts.tags)


def _tags_all(value: object) -> Holds:
    tags = frozenset(_texts(value))
    return lambda facts: tags <= facts.tags


def _size(value: object) -> int:
    try:
        return size_bytes(value)
    except ValueError as exc:
        raise _Wrong(((), str(exc))) from exc


def _size_lt(value: object) -> Holds:
    limit = _size(value)
    return lambda facts: facts.size < limit


def _size_gt(value: object) -> Holds:
    limit = _size(value)
    return lambda facts: facts.size > limit


#: Everything a condition may ask; the cheap ones are asked first.
OPERATORS: Mapping[str, Operator] = {
    "size_lt": Operator(_size_lt, lambda facts: facts.size),
    "size_gt": Operator(_size_gt, lambda facts: facts.size),
    "ext": Operator(_ext, lambda facts: facts.ext),
    "scene": Operator(_scene, lambda facts: facts.scene),
    "tags_any": Operator(_tags_any, lambda facts: sorted(facts.tags)),
    "tags_all": Operator(_tags_all, lambda facts: sorted(facts.tags)),
    "mime": Operator(_mime, lambda facts: facts.content_type),
    "name": Operator(_name, lambda facts: facts.name),
}
