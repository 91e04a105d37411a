"""The rules of the demo's second story: a small version of pictures, and of films a chain that ends at a CDN."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

from rich.table import Table

from asynch.demo.door import Door, Refused
from asynch.demo.receiver import Call

_FILMS, _PICTURES = {"mime": "video/*"}, {"mime": "image/*"}
_PROCESSOR, _WEBHOOK = 3, 2
_WEB, _POSTER, _CDN = "web", "poster", "cdn"
#: Which rule goes on from which.
_AFTER = {_POSTER: _WEB, _CDN: _POSTER}


@dataclass(frozen=True, slots=True)
class Done:
    """One action that has ended well, and the file that came of it."""

    file: str
    name: str
    seconds: float  #: from the moment it was fired
    made: Mapping[str, Any] | None

    @property
    def product(self) -> str:
        """What its file is called here; empty without one."""
        return f"{Path(self.file).stem}-{self.name}.{self.made['ext']}" if self.made else ""


def make_rules(door: Door, cdn_url: str) -> None:
    """Four rules; three of them are one chain. Refused."""
    processor = {"executeMode": _PROCESSOR}
    small = {"width": 320, "height": 320}
    door.make_rule(
        **processor, actionName="thumbnail", targetUrl="image.thumbnail", triggerCondition=_PICTURES, options=small
    )
    web = door.make_rule(
        **processor,
        actionName=_WEB,
        targetUrl="video.transcode",
        triggerCondition=_FILMS,
        options={"format": "webm", "max_width": 480, "crf": 40},
    )
    # what comes after a processor works on what that one made: a frame of the smaller film
    poster = door.make_rule(
        **processor, actionName=_POSTER, targetUrl="video.cover", triggerCondition=_FILMS, after=web
    )
    door.make_rule(executeMode=_WEBHOOK, actionName=_CDN, targetUrl=cdn_url, triggerCondition=_FILMS, after=poster)


def have_acted(file: Mapping[str, Any]) -> bool:
    """Whether all that was fired has ended well. Refused when something has not.

    What comes after an action is there in the same moment as its end, so that a chain is never over too early.
    """
    for action in file["actions"]:
        if action["status"] == "failed":
            raise Refused(f"{file['name']}: {action['name']} failed: {action['error']}")
    return all(action["status"] == "completed" for action in file["actions"])


def done(file: Mapping[str, Any]) -> Iterator[Done]:
    """What rules did with a file."""
    derived = {one["identity"]: one for one in file["derived"]}
    for action in file["actions"]:
        began, ended = (datetime.fromisoformat(action[time]) for time in ("created_at", "completed_at"))
        made = derived.get((action["output"] or {}).get("identity"))
        yield Done(file["name"], action["name"], (ended - began).total_seconds(), made)


def check_chain(film: Mapping[str, Any], calls: Sequence[Call]) -> None:
    """The CDN heard once of this film, and of the poster that its rule came after. Refused."""
    made = {one.name: one.made for one in done(film)}
    poster = made.get(_POSTER)
    if set(made) != {_WEB, _POSTER, _CDN} or poster is None:
        raise Refused(f"{film['name']}: not the whole chain fired, but {', '.join(made) or 'nothing'}")
    heard = [(call.told["data"]["file"]["identity"], _given(call).get("identity")) for call in calls]
    if heard != [(film["identity"], poster["identity"])]:
        raise Refused(f"the CDN heard something else: {heard}")


def _given(call: Call) -> Mapping[str, Any]:
    """What the action before has made."""
    return call.told["data"]["action"]["input"] or {}


def told(call: Call) -> str:
    """A call as a line to print."""
    data = call.told["data"]
    what = f"{call.told['type']} of {data['file']['name']}, input {_given(call).get('name')}"
    return f"CDN called by rule {data['action']['name']}: {what}; signature verified"


def table(files: Sequence[Mapping[str, Any]]) -> Table:
    """What fired, after which, how long it took and what came of it."""
    shown = Table(box=None, padding=(0, 2, 0, 0))
    for name in ("file", "rule", "after"):
        shown.add_column(name, no_wrap=True)
    shown.add_column("seconds", justify="right", no_wrap=True)
    shown.add_column("what came of it", overflow="fold")
    for file in files:
        products = {one.name: one.product for one in done(file)}
        for one in done(file):
            parent = _AFTER.get(one.name, "")
            size = f", {one.made['stored_size'] / 1024:,.0f} KiB" if one.made else ""
            result = f"{one.product}{size}" if one.made else f"told of {products[parent]}"
            shown.add_row(one.file, one.name, parent, f"{one.seconds:.1f}", result)
    return shown
