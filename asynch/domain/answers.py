"""What an action answers, as far as a file's tags are concerned."""

from __future__ import annotations

import re
from collections.abc import Iterator

#: A file has at most so many tags; what comes later is left out.
MOST_TAGS = 256
LONGEST_TAG = 64
_UNSTORABLE = re.compile("[\0\ud800-\udfff]")


def tags_in(answer: object) -> list[str]:
    """The tags of `{"tags": ["cat", …]}` and of `{"labels": [{"name": "cat", "score": 0.9}, …]}`, each once, in order.

    What is no text, or cannot be a tag, is left out: a model's word is no reason to fail.
    """
    return list(dict.fromkeys(tag for told in _told(answer) if (tag := _tag(told))))[:MOST_TAGS]


def _told(answer: object) -> Iterator[object]:
    if not isinstance(answer, dict):
        return
    tags, labels = answer.get("tags"), answer.get("labels")
    if isinstance(tags, list):
        yield from tags
    if isinstance(labels, list):
        yield from (label.get("name") for label in labels if isinstance(label, dict))


def _tag(told: object) -> str:
    if not isinstance(told, str) or _UNSTORABLE.search(told):
        return ""
    tag = told.strip()
    return tag if len(tag) <= LONGEST_TAG else ""
