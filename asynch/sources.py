"""Where configuration values come from and how mistakes in them are told; the model knows the keys."""

from __future__ import annotations

import difflib
import json
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, get_args, get_origin

import yaml
from pydantic import BaseModel, SecretStr, ValidationError
from pydantic_core import ErrorDetails
from yaml.constructor import ConstructorError

from asynch.errors import SettingsError

PREFIX = "ASYNCH_"
CONFIG = "ASYNCH_CONFIG"

KeyPath = tuple[str, ...]


def config_file(named: Path | None, environ: Mapping[str, str]) -> Path | None:
    """The file to read; ./config.yml only if it is there, a named one even if it is not."""
    if named is None and environ.get(CONFIG):
        named = Path(environ[CONFIG])
    here = Path("config.yml")
    return named or (here if here.exists() else None)


class _Loader(yaml.SafeLoader):
    """Refuses a key that is written twice, of which YAML would silently keep the last."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        seen = set()
        for key, _ in node.value:
            if isinstance(key, yaml.ScalarNode) and key.value in seen:
                raise ConstructorError(None, None, f"duplicate key {key.value}", key.start_mark)
            seen.add(key.value if isinstance(key, yaml.ScalarNode) else id(key))
        return super().construct_mapping(node, deep)


def read_yaml(path: Path) -> dict[str, Any]:
    """The mapping in a YAML file, empty for an empty file. SettingsError says where it cannot be read."""
    try:
        with path.open(encoding="utf-8-sig") as text:
            values = yaml.load(text, _Loader)  # noqa: S506 - a SafeLoader
    except OSError as exc:
        raise SettingsError(f"cannot read {path}: {exc.strerror}") from exc
    except yaml.MarkedYAMLError as exc:
        raise SettingsError(f"{_place(path, exc.problem_mark)}: {_problem(exc)}") from None
    except (yaml.YAMLError, ValueError, RecursionError):
        raise SettingsError(f"{path}: expected YAML in UTF-8") from None
    if values is not None and not isinstance(values, dict):
        raise SettingsError(f"{path}: expected sections with keys at the top level")
    return values or {}


def _problem(error: yaml.MarkedYAMLError) -> str:
    """What YAML says without what it quotes: a password that begins with * or ! is a name to it."""
    return re.sub(r"'.{2,}'", "(not shown)", " ".join((error.problem or "not YAML").split()))


def _place(path: Path, mark: yaml.Mark | None) -> str:
    return f"{path}:{mark.line + 1}:{mark.column + 1}" if mark else str(path)


def read_environ(environ: Mapping[str, str], model: type[BaseModel]) -> tuple[dict[str, Any], list[str]]:
    """Nested values of the ASYNCH_ variables, and a line for each that is no key or no JSON where due."""
    known = {env_name(path): (path, kind) for path, kind in leaves(model)}
    values: dict[str, Any] = {}
    mistakes: list[str] = []
    for name, text in sorted(environ.items()):
        if not name.startswith(PREFIX) or name == CONFIG:
            continue
        if name not in known:
            mistakes += _unknown_variable(name, model)
            continue
        path, kind = known[name]
        try:
            _put(values, path, _parsed(text, kind))
        except ValueError as exc:
            shown = "(not shown)" if _is_secret(kind) else _shown(text)
            mistakes.append(f"{name} = {shown}: {exc}")
    return values, mistakes


def env_name(path: KeyPath) -> str:
    """`server`, `port` → ASYNCH_SERVER__PORT."""
    return PREFIX + "__".join(path).upper()


def _unknown_variable(name: str, model: type[BaseModel]) -> Iterator[str]:
    """A variable that is, or was surely meant to be, a key; other ASYNCH_ names are someone else's."""
    key = name.removeprefix(PREFIX).lower()
    names = [env_name(path) for path, _ in leaves(model)]
    if key in model.model_fields:
        yield f"{name}: is a section, expected {name}__<KEY>"
    elif "__" in key or difflib.get_close_matches(name, names, 1, 0.9):
        close = difflib.get_close_matches(name, names, 1, 0.75)
        yield f"{name}: unknown key" + (f", did you mean {close[0]}?" if close else "")


def _parsed(text: str, kind: Any) -> Any:
    """The text as it is, or what its JSON says where the key holds many values."""
    if get_origin(kind) not in (tuple, Mapping):
        return text
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        what = 'list such as ["a", "b"]' if get_origin(kind) is tuple else 'object such as {"a": "b"}'
        raise ValueError(f"expected a JSON {what}") from None


def _put(values: dict[str, Any], path: KeyPath, value: Any) -> None:
    for key in path[:-1]:
        values = values.setdefault(key, {})
    values[path[-1]] = value


def merge(model: type[BaseModel], *layers: Mapping[str, Any]) -> dict[str, Any]:
    """One nested mapping of all layers, later ones winning key by key; None is no value.

    A section that is no mapping is kept as it is, for the validation to refuse.
    """
    merged: dict[str, Any] = {}
    for key, value in ((key, value) for layer in layers for key, value in layer.items() if value is not None):
        section, below = _section(model, key), merged.get(key, {})
        if section is None or not isinstance(value, Mapping):
            merged[key] = value
        elif isinstance(below, Mapping):
            merged[key] = merge(section, below, value)
    return merged


def _section(model: type[BaseModel], key: str) -> type[BaseModel] | None:
    kind = model.model_fields[key].annotation if key in model.model_fields else None
    return kind if isinstance(kind, type) and issubclass(kind, BaseModel) else None


def leaves(model: type[BaseModel], above: KeyPath = ()) -> Iterator[tuple[KeyPath, Any]]:
    """Every key of the model with its type, in order, sections opened up."""
    for name, field in model.model_fields.items():
        section = _section(model, name)
        if section:
            yield from leaves(section, (*above, name))
        else:
            yield (*above, name), field.annotation


def describe(error: ValidationError, model: type[BaseModel]) -> list[str]:
    """A line for each mistake: key, value, what was expected; no secret, and no value of an unknown key."""
    return [_line(found, model) for found in error.errors(include_url=False, include_context=False)]


def _line(found: ErrorDetails, model: type[BaseModel]) -> str:
    path = ".".join(str(part) if str(part).isprintable() else repr(part) for part in found["loc"])
    expected = re.sub(r"^(Value error, |Input should be )", "", found["msg"])
    if not path:
        return expected
    if found["type"] in ("extra_forbidden", "invalid_key"):
        return f"{path}: unknown key{_did_you_mean(path, model)}"
    if found["type"] == "model_type":
        return f"{path}: expected a section with keys, not {type(found['input']).__name__}"
    expected = expected if expected.startswith("expected ") else f"expected {expected}"
    return f"{path} = {_value(found, model)}: {expected}"


def _value(found: ErrorDetails, model: type[BaseModel]) -> str:
    hidden = any(_is_secret(kind) for path, kind in leaves(model) if found["loc"][: len(path)] == path)
    return "(not shown)" if hidden else _shown(found["input"])


def _is_secret(kind: Any) -> bool:
    return kind is SecretStr or any(map(_is_secret, get_args(kind)))


def _shown(value: object) -> str:
    """On one line, not long, and without the password that a URL may carry."""
    text = re.sub(r"//[^/@]*@", "//***@", repr(value))
    return text if len(text) <= 80 else f"{text[:80]}..."


def _did_you_mean(wrong: str, model: type[BaseModel]) -> str:
    """The key most like the wrong one: the whole path first, else its last word in another section."""
    paths = [".".join(path) for path, _ in leaves(model)]
    wrong = wrong.lower().replace("_", "")
    whole = {path.replace("_", ""): path for path in (*paths, *model.model_fields)}
    words = {plain.rpartition(".")[2]: path for plain, path in reversed(whole.items())}
    close = [whole[match] for match in difflib.get_close_matches(wrong, whole, 1, 0.75)]
    close += [words[match] for match in difflib.get_close_matches(wrong.rpartition(".")[2], words, 1, 0.75)]
    return f", did you mean {close[0]}?" if close else ""
