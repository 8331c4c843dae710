"""Experiment files as data: YAML 1.2 scalars, no duplicate keys, a line number for every key, `--set` overrides.

PyYAML reads YAML 1.1, where `1e-3` is a string, `off` is False, `1:30` is 90 and a repeated key silently wins; each of
those has cost somebody a training run, so this loader reads scalars as YAML 1.2 does and refuses repeated keys.
A file says everything in full: anchors, aliases, merge keys and tags are refused, and with them cycles and YAML bombs.
"""

import contextlib
import json
import math
import os
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import yaml

KeyPath = tuple[str | int, ...]
Place = Callable[[int | None], str]  # a line's file and number, for messages

_STR, _FLOAT = "tag:yaml.org,2002:str", "tag:yaml.org,2002:float"
_SCALARS = {
    "null": (r"~|null|Null|NULL|", ["~", "n", "N", ""]),
    "bool": (r"true|True|TRUE|false|False|FALSE", list("tTfF")),
    "int": (r"[-+]?[0-9]+|0o[0-7]+|0x[0-9a-fA-F]+", list("-+0123456789")),
    "float": (
        r"[-+]?(?:\.[0-9]+|[0-9]+\.[0-9]*)(?:[eE][-+]?[0-9]+)?|[-+]?[0-9]+[eE][-+]?[0-9]+"
        r"|[-+]?\.(?:inf|Inf|INF)|\.(?:nan|NaN|NAN)",
        list("-+0123456789."),
    ),
}


class _Loader(yaml.SafeLoader):
    """SafeLoader with YAML 1.2 scalars and without anchors, aliases and tags."""

    def compose_node(self, parent: yaml.Node | None, index: Any) -> yaml.Node | None:
        event = self.peek_event()  # type: ignore[no-untyped-call]
        if isinstance(event, yaml.AliasEvent) or getattr(event, "anchor", None) is not None:
            raise _refused("anchors (&) and aliases (*) are not read; write the value out, or quote the text", event)
        if getattr(event, "tag", None) is not None:
            raise _refused(f"tags are not read; delete {event.tag!r}, or quote the text", event)
        node: yaml.Node | None = super().compose_node(parent, index)
        return node


def _refused(problem: str, event: yaml.Event) -> yaml.MarkedYAMLError:
    mark: Any = event.start_mark
    return yaml.MarkedYAMLError(problem=problem, problem_mark=mark)


def _integer(loader: yaml.SafeLoader, node: yaml.ScalarNode) -> int:
    base = {"0o": 8, "0x": 16}.get(node.value[:2], 10)
    return int(node.value, base)


_Loader.yaml_implicit_resolvers = {}
for _name, (_pattern, _first) in _SCALARS.items():
    _Loader.add_implicit_resolver(f"tag:yaml.org,2002:{_name}", re.compile(f"^(?:{_pattern})$"), _first)
_Loader.add_constructor("tag:yaml.org,2002:int", _integer)


def _number(text: str) -> float:
    """`.inf` and `.nan` are YAML's; the rest is as Python writes it."""
    return float(text.lower().replace(".inf", "inf").replace(".nan", "nan"))


def read(path: Path) -> tuple[dict[str, Any], dict[KeyPath, int]]:
    """Read a YAML mapping and the line of each of its keys.

    Raises:
        ValueError: the file is missing, is not YAML, repeats a key, or is not a mapping.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except OSError as error:
        raise ValueError(f"{path}: cannot be read ({error.strerror}). Give the path of an experiment file.") from None
    except UnicodeDecodeError as error:
        line = error.object.count(b"\n", 0, error.start) + 1
        raise ValueError(f"{path}:{line}: is not UTF-8 text ({error.reason}). Save the file as UTF-8.") from None
    lines: dict[KeyPath, int] = {}
    data = _parse(text, lambda line: f"{path}:{line}" if line else f"{path}", lines)
    if not isinstance(data, dict):
        raise ValueError(f"{path}: an experiment file is a mapping of keys (name:, data:, ...); this one is not.")
    return data, lines


def read_otherwise_by_ray(
    path: Path, experiment: dict[str, Any], root: tuple[str, ...]
) -> Iterator[tuple[KeyPath, Any]]:
    """The places below `root` where Ray, which reads YAML 1.1, reads another value than `experiment`; and its value.

    Raises:
        ValueError: Ray cannot read the file.
    """
    text = path.read_text(encoding="utf-8")
    with contextlib.suppress(ValueError):
        json.loads(text)
        return  # Ray wrote this itself, from what it had read
    try:
        theirs = yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise ValueError(f"{path}: Ray cannot read this file: {' '.join(str(error).split())}") from None
    for key in root:
        theirs = theirs[key]
    yield from _differing(experiment, theirs, ())


def _differing(ours: Any, theirs: Any, at: KeyPath) -> Iterator[tuple[KeyPath, Any]]:
    if isinstance(ours, dict) and isinstance(theirs, dict) and ours.keys() == theirs.keys():
        for key in ours:
            yield from _differing(ours[key], theirs[key], (*at, key))
    elif isinstance(ours, list) and isinstance(theirs, list):
        for index, (mine, other) in enumerate(zip(ours, theirs, strict=True)):
            yield from _differing(mine, other, (*at, index))
    elif type(ours) is not type(theirs) or ours != theirs:
        yield at, theirs


def _parse(text: str, place: Place, lines: dict[KeyPath, int]) -> Any:
    """The plain data of one YAML document; fills `lines`. `place` says where a line is, for messages."""
    try:
        loader = _Loader(text)
        node = loader.get_single_node()
        if node is None:
            return None
        _walk(node, (), lines, place)
        return loader.construct_document(node)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        what = " ".join(part for part in (error.context, error.problem) if part)
        what += ". Indent with spaces" if "'\\t'" in what else ""
        raise ValueError(f"{place(mark.line + 1 if mark else None)}: not valid YAML: {what}") from None
    except yaml.reader.ReaderError as error:
        line = text.count("\n", 0, error.position) + 1
        raise ValueError(f"{place(line)}: not valid YAML: the character {text[error.position]!r}; delete it") from None


def _walk(node: yaml.Node, at: KeyPath, lines: dict[KeyPath, int], place: Place) -> None:
    """Record the line of every key and list item below `node`; refuse repeated keys and keys that are not text."""
    if isinstance(node, yaml.MappingNode):
        for key, value in node.value:
            line = key.start_mark.line + 1
            if not isinstance(key, yaml.ScalarNode):
                raise ValueError(f"{place(line)}: a key is a plain word, not a list or a mapping.")
            if key.tag != _STR:
                raise ValueError(f"{place(line)}: the key {key.value!r} is not text. Quote it, or correct it.")
            below = (*at, key.value)
            if below in lines:
                raise ValueError(
                    f"{place(line)}: {dotted(below)}: duplicate key (first on line {lines[below]}). Delete one of them."
                )
            lines[below] = line
            _walk(value, below, lines, place)
    elif isinstance(node, yaml.SequenceNode):
        for index, value in enumerate(node.value):
            lines[(*at, index)] = value.start_mark.line + 1
            _walk(value, (*at, index), lines, place)
    elif node.tag == _FLOAT and not math.isfinite(_number(node.value)):
        raise ValueError(f"{place(node.start_mark.line + 1)}: {dotted(at)}: {node.value} is not a finite number.")


def override(data: dict[str, Any], assignment: str) -> KeyPath:
    """Apply one `a.b.0.c=value` to `data` in place; the value is read as YAML. Returns the key path.

    Raises:
        ValueError: no `=`, an empty key, an index past the end of a list, or a path through a plain value.
    """
    key, sep, text = assignment.partition("=")
    if not sep or not key.strip() or any(not part for part in key.strip().split(".")):
        raise ValueError(f"--set {assignment}: write it as key.path=value, for example --set train.steps=20")
    value = _parse(text, lambda line: f"--set {assignment}", {})
    parts = key.strip().split(".")
    here: Any = data
    path: KeyPath = ()
    for depth, part in enumerate(parts):
        last = depth == len(parts) - 1
        if isinstance(here, list):
            if not part.isdecimal() or int(part) >= len(here):
                raise ValueError(
                    f"--set {assignment}: {dotted(path)} is a list of {len(here)}; {part!r} is not an index of it"
                )
            index: str | int = int(part)
        elif isinstance(here, dict):
            index = part
            if not last and here.get(part) is None:
                here[part] = {}
        else:
            raise ValueError(f"--set {assignment}: {dotted(path)} is the plain value {here!r}; it has no keys")
        path = (*path, index)
        if last:
            here[index] = value
        else:
            here = here[index]
    return path


def expand_variables(text: str) -> str:
    """Replace each `${NAME}` in a path by the environment variable's value.

    Raises:
        ValueError: a variable is not set or empty, or `${...}` is not a variable's name.
    """

    def value(match: re.Match[str]) -> str:
        name = match.group(1)
        if not re.fullmatch(r"\$\{[A-Za-z_][A-Za-z0-9_]*\}", match.group()):
            raise ValueError(f"{match.group()} is not an environment variable. Write ${{NAME}}.")
        if not os.environ.get(name):
            state = "empty" if name in os.environ else "not set"
            raise ValueError(f"the environment variable {name} is {state}. Set it: export {name}=/path/to/data")
        return os.environ[name]

    return re.sub(r"\$\{([^}]*)\}?", value, text)


def dotted(path: KeyPath) -> str:
    """A key path as users write it for `--set`: `pairs.0.teacher`."""
    return ".".join(str(part) for part in path)
