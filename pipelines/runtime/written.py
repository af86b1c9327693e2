"""Read values as a user wrote them, in YAML or after `--set`, by the type of their field. `validate` calls it.

A field of type string takes the text itself: `no`, `2024`, `1e3`, `null` and, after `--set`, `pictures #2` and `a: b`
are names and paths, not YAML's booleans, numbers, comments and mappings. A field that may be None reads `null`, `~` and
the empty text as None. Only a field without a type, such as an entry of backbone.args, takes YAML's values.
"""

from __future__ import annotations

import dataclasses
import difflib
import os
import re
import types
from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import cache
from typing import Annotated, Any, Literal, Union, get_args, get_origin, get_type_hints

import yaml

from pipelines.runtime.errors import ConfigError

NULL = ("", "~", "null", "Null", "NULL")
NUMBERS = (int, float, bool)
TWICE = "a key is there twice"
Kind = Any
"""A type annotation, or a dict of names and kinds."""


class Written(str):
    """A value not read yet: an unquoted scalar of a YAML file, or the text after `--set a.b=`."""


class _Loader(yaml.SafeLoader):
    """A YAML loader that keeps unquoted scalars as written and refuses a key that is there twice."""

    def construct_mapping(self, node: Any, deep: bool = False) -> dict[Any, Any]:
        seen: set[str] = set()
        for key, _ in node.value:
            if key.value != "<<" and str(key.value) in seen:
                raise yaml.constructor.ConstructorError(None, None, TWICE, key.start_mark)
            seen.add(str(key.value))
        return super().construct_mapping(node, deep)


def _as_written(loader: Any, node: Any) -> Any:
    return Written(node.value) if node.style is None else yaml.SafeLoader.yaml_constructors[node.tag](loader, node)


for _kind in ("null", "bool", "int", "float", "timestamp"):
    _Loader.add_constructor(f"tag:yaml.org,2002:{_kind}", _as_written)


def read_yaml(data: bytes | str, name: str) -> Any:
    """The content of a YAML file, for `read`. Raises ConfigError, which names the file but does not quote it."""
    try:
        return _Loader(data).get_single_data()
    except (yaml.YAMLError, UnicodeDecodeError, ValueError, RecursionError) as error:
        mark = getattr(error, "problem_mark", None)
        where = f": line {mark.line + 1}, column {mark.column + 1}" if mark else ""
        twice = f", {TWICE}" if getattr(error, "problem", "") == TWICE else ""
        raise ConfigError(f"{name} is not YAML{where}{twice}") from None


def plain(raw: Any, path: str) -> Any:
    """The written value as YAML reads it. Raises ConfigError for text after `--set` that is not YAML."""
    if isinstance(raw, Written):
        tree = read_yaml(raw, f"{path}: {str(raw)!r}")
        return yaml.safe_load(raw) if isinstance(tree, str) else plain(tree, path)
    if isinstance(raw, dict):
        return {str(key): plain(value, path) for key, value in raw.items()}
    return [plain(value, path) for value in raw] if isinstance(raw, list) else raw


def read(kind: Kind, raw: Any, path: str = "", given: Sequence[str] = ()) -> Any:
    """The written value as plain values, for pydantic to check.

    path: the field's name, for errors. given: field names as typed after `--set`, for errors.
    Raises ConfigError for an unknown field, and for text that is not YAML in a field that takes YAML.
    """
    return _Reading(kind, raw, path, given)._read(kind, raw, path)


def fields(kind: Kind) -> dict[str, Kind] | None:
    """Name -> kind of the fields of a section; None for a kind without fixed fields."""
    if isinstance(kind, dict):
        return kind
    if not dataclasses.is_dataclass(kind):
        return None
    hints = _hints(kind)
    return {field.name: hints[field.name] for field in dataclasses.fields(kind)}


@cache
def _hints(kind: type) -> dict[str, Kind]:
    return get_type_hints(kind, include_extras=True) | getattr(kind, "__read_as__", dict)()


@dataclasses.dataclass(frozen=True)
class _Reading:
    root: Kind
    whole: Any
    prefix: str
    given: Sequence[str]

    def _read(self, kind: Kind, raw: Any, path: str) -> Any:
        kinds = _alternatives(kind)
        if isinstance(raw, Written):
            if raw in NULL and type(None) in kinds:
                return None
            if Any in kinds:
                return plain(raw, path)
            text, listed = _takes_text(kinds), None
            if _lists_values(kinds) and not (text and os.path.exists(raw)):  # a folder may be named [old]
                listed = listed_in(raw)
            if listed is not None:
                raw = listed
            elif text or _lists_values(kinds) or any(kind in NUMBERS for kind in kinds):
                return _one(raw, path, text=text)
            else:
                raw = {} if raw in NULL else read_yaml(raw, f"{path}: {str(raw)!r}")
        if isinstance(raw, dict):
            return self._section(kinds, raw, path)
        if isinstance(raw, list):
            items = [(_item(kinds, i), one) for i, one in enumerate(raw)]
            return [self._read(Any if k is None else k, one, f"{path}.{i}") for i, (k, one) in enumerate(items)]
        return str(raw) if isinstance(raw, str) else raw

    def _section(self, kinds: Sequence[Kind], raw: dict[str, Any], path: str) -> Any:
        kind = chosen(kinds, raw, path)
        known = fields(kind)
        if known is None:
            value = get_args(kind)[1] if len(get_args(kind)) == 2 else Any
            known = dict.fromkeys(map(str, raw), value)
        above = path if path == "" or path.endswith(" ") else f"{path}."
        for key in raw:
            if str(key) not in known:
                raise self._unknown(f"{above}{key}")
        return {str(key): self._read(known[str(key)], value, f"{above}{key}") for key, value in raw.items()}

    def _unknown(self, path: str) -> ConfigError:
        """The error for an unknown field, with the path as typed and the nearest known one."""
        typed = next((one for one in self.given if f"{one}.".startswith(f"{path}.")), path)
        within = typed.removeprefix(self.prefix).removeprefix(".")
        start = typed[: len(typed) - len(within)]
        near, section, known = nearest(self.root, self.whole, within)
        if near:
            return ConfigError(f"{typed}: unknown. Did you mean {start}{near}?")
        of = f"{start}{section}".rstrip(".")
        return ConfigError(f"{typed}: unknown. {of or 'An experiment'} has {', '.join(known)}")


def _one(raw: Written, path: str, *, text: bool) -> str:
    """The text of a string or of a number, for pydantic to read. Raises ConfigError for no text, nan and inf."""
    if raw == "":
        raise ConfigError(f"{path} is empty. Give a value")
    if not text and raw.lower().strip(" +-.") in ("nan", "inf", "infinity"):
        raise ConfigError(f"{path}: must be a finite number, got {str(raw)!r}")
    return str(raw) if text else raw.strip()


def chosen(kinds: Sequence[Kind], raw: Mapping[str, Any], path: str) -> Kind:
    """The kind of a section; of several kinds, the one that `adapter` names. Raises ConfigError for an unknown name."""
    sections = [kind for kind in kinds if fields(kind) is not None or get_origin(kind) is not None]
    if len(sections) < 2:
        return sections[0] if sections else Any
    by_name = {get_args(_hints(kind)["adapter"])[0]: kind for kind in sections}
    name = raw.get("adapter")
    if not isinstance(name, str) or name not in by_name:
        field = f"{path}.adapter".removeprefix(".")
        wrong = f"{field}: {str(name)!r} is unknown." if name is not None else f"{field} is missing."
        raise ConfigError(f"{wrong}{did_you_mean(str(name), by_name)} Known: {', '.join(sorted(by_name))}")
    return by_name[name]


def nearest(kind: Kind, raw: Any, path: str) -> tuple[str, str, list[str]]:
    """(known path nearest to `path` or "", section that was searched and a dot, names of its fields)."""
    root, whole, section = kind, raw, ""
    for part in path.split("."):
        kinds, raw = _alternatives(kind), plain(raw, path)
        if (item := _item(kinds, 0)) is not None:
            name, kind, raw = part, item, raw[int(part)]
        else:
            kind = chosen(kinds, raw, section.rstrip("."))
            known = fields(kind) or dict.fromkeys(raw, get_args(kind)[-1])
            near = [part] if part in known else difflib.get_close_matches(part, known, 1)
            if not near:
                last = path.rpartition(".")[2]
                return next((p for p in _paths(root, whole) if p.endswith(f".{last}")), ""), section, list(known)
            name, kind = near[0], known[near[0]]
            raw = raw.get(name, raw.get(part))
        section += f"{name}."
        if not isinstance(raw, dict | list):
            break
    return section.rstrip("."), "", []


def _paths(kind: Kind, raw: Any) -> Iterator[str]:
    """The paths of all fields at any depth, in the sections that `raw` has."""
    raw = raw if isinstance(raw, dict) else {}
    if len(_alternatives(kind)) > 1 and "adapter" not in raw:
        return
    for name, below in (fields(chosen(_alternatives(kind), raw, "")) or {}).items():
        if isinstance(kind, dict) and name not in raw:  # the settings of another method
            continue
        yield name
        if _item(_alternatives(below), 0) is None:
            yield from (f"{name}.{path}" for path in _paths(below, raw.get(name)))


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """` Did you mean NAME?` for the nearest known name; empty if none is near."""
    near = difflib.get_close_matches(name, list(known), 1)
    return f" Did you mean {near[0]}?" if near else ""


def _alternatives(kind: Kind) -> tuple[Kind, ...]:
    """The members of a union, or the kind alone."""
    if get_origin(kind) is Annotated:
        return _alternatives(get_args(kind)[0])
    if get_origin(kind) in (Union, types.UnionType):
        return tuple(member for one in get_args(kind) for member in _alternatives(one))
    return (kind,)


def _takes_text(kinds: Iterable[Kind]) -> bool:
    return any(kind is str or (get_origin(kind) is Literal and isinstance(get_args(kind)[0], str)) for kind in kinds)


def _lists_values(kinds: Iterable[Kind]) -> bool:
    """Whether one of the kinds is a list of strings or numbers."""
    item = _item(kinds, 0)
    return item is not None and fields(_alternatives(item)[0]) is None


def _item(kinds: Iterable[Kind], position: int) -> Kind | None:
    """The kind of the item at a position, if one of the kinds is a tuple."""
    for kind in kinds:
        if get_origin(kind) is tuple:
            items = get_args(kind)
            return items[0] if items[-1] is Ellipsis else items[min(position, len(items) - 1)]
    return None


_ITEM = re.compile(r"""\s*(?:("(?:[^"\\]|\\.)*"|'(?:[^']|'')*')\s*|((?:\[[^\[\]]*\]|[^,])*))(?:,|$)""", re.DOTALL)


def listed_in(text: str) -> list[Written | str] | None:
    """The items of `[a, b]` as written, quoted ones without their quotes; None for other text."""
    text = text.strip()
    if not (text.startswith("[") and text.endswith("]")) or not _closes_last(text):
        return None
    inside, items, at = text[1:-1].strip(), list[Written | str](), 0
    while at < len(inside):
        found = _ITEM.match(inside, at)
        assert found is not None  # the second alternative matches any text
        quoted, bare = found.groups()
        items.append(str(yaml.safe_load(quoted)) if quoted else Written(bare.strip()))
        at = found.end()
    return items


def _closes_last(text: str) -> bool:
    """Whether the last bracket closes the first one."""
    depth = 0
    for character in re.sub(r""""(?:[^"\\]|\\.)*"|'(?:[^']|'')*'""", lambda m: "q" * len(m[0]), text)[:-1]:
        depth += (character == "[") - (character == "]")
        if depth < 1:
            return False
    return True
