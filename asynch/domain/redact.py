"""Hides what looks like a secret in JSON text before it is logged; it never parses, so half a document will do."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Sequence

#: What the op log keeps of a payload, characters.
KEPT = 1024

#: In a name in small letters without its hyphens; searched as words, a tenth of the time of one expression.
_WORDS = (
    "passw", "passphrase", "pwd", "secret", "token", "apikey", "accesskey", "privatekey", "authorization", "cookie",
    "credential",
)  # fmt: skip
# a string, cut off at the end perhaps, with the colon that makes it a name; a bracket; a number or word
_TOKEN = re.compile(r'("(?:[^"\\]|\\.)*+"?)(\s*:)?|[\[\]{}]|[^\s"\[\]{},:]+', re.DOTALL)
_ESCAPE = re.compile(r"\\u([0-9a-fA-F]{4})")
_HIDDEN = '"***"'
#: a known secret shorter than this is no secret, and would be met everywhere
_SHORTEST = 6


def redacted(text: str | None) -> str:
    """The beginning of a payload; what stands under a secret-looking name is hidden, whatever it is."""
    head = (text or "")[: KEPT * 2]
    return (_hide(head) if _is_secret(head) else head)[:KEPT]


def redacted_each(texts: Sequence[str | None]) -> list[str]:
    """As `redacted`, of many: that none has such a name in it is seen at once of all of them."""
    heads = [(text or "")[: KEPT * 2] for text in texts]
    if _is_secret("\n".join(heads)):
        return [redacted(head) for head in heads]
    return [head[:KEPT] for head in heads]


def without(text: str, secrets: Iterable[str]) -> str:
    """`text` with these secrets hidden wherever they stand, as they are or as JSON escapes them; each also without the
    word before it (Bearer)."""
    for secret in secrets:
        for part in (secret, secret.rpartition(" ")[2]):
            if len(part) >= _SHORTEST:
                text = text.replace(part, "***").replace(json.dumps(part)[1:-1], "***")
    return text


def _hide(head: str) -> str:
    kept: list[str] = []
    at = 0
    while token := _TOKEN.search(head, at):
        kept += head[at : token.start()], _shown(token)
        at = token.end()
        if token[2] is not None and _is_secret(token[1]):
            kept.append(_HIDDEN)
            at = _past_value(head, at)
    return "".join(kept)


def _past_value(head: str, at: int) -> int:
    """Where the value that begins after `at` ends, with its last bracket."""
    depth = 0
    while token := _TOKEN.search(head, at):
        at = token.end()
        depth += (token[0] in "[{") - (token[0] in "]}")
        if depth <= 0:
            return at
    return len(head)


def _shown(token: re.Match[str]) -> str:
    """A token as it may be seen; JSON inside a text is not looked into, so a text with such a name in it is hidden."""
    if token[1] and token[2] is None and '\\"' in token[1] and _is_secret(token[1]):
        return _HIDDEN
    return token[0]


def _is_secret(text: str) -> bool:
    """Whether a text has such a word in it, however it is spelled."""
    if "\\u" in text:
        text = _ESCAPE.sub(lambda found: chr(int(found[1], 16)), text)
    plain = text.lower().replace("_", "").replace("-", "").replace(" ", "")
    return any(word in plain for word in _WORDS)
