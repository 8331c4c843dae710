"""Everything that is YAML as data: YAML 1.2 scalars, no duplicate keys, a line number for every key, `--set` overrides.

PyYAML reads YAML 1.1, where `1e-3` is a string, `off` is False, `1:30` is 90 and a repeated key silently wins; each of
those has cost somebody a training run, so this loader reads scalars as YAML 1.2 does and refuses repeated keys.
A file says everything in full: anchors, aliases, merge keys and tags are refused, and with them cycles and YAML bombs.
Size, depth and number of values are bounded, and so is every text that a message quotes.
"""

import contextlib
import json
import math
import os
import re
import stat
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import yaml

from harness.borders import quoted

KeyPath = tuple[str | int, ...]
Place = Callable[[int | None], str]  # a line's file and number, for messages

MOST_BYTES = 1_000_000
MOST_VALUES = 50_000
"""Keys, items and plain values of a file together; PyYAML needs some 50 microseconds for each."""
MOST_LEVELS = 50
"""Brackets and indentations within each other."""
MOST_DIGITS = 100
"""Of an integer. Fields have tighter bounds; this one is for Python, which does not read any number of digits."""

_STR, _FLOAT, _INT = (f"tag:yaml.org,2002:{kind}" for kind in ("str", "float", "int"))
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
    """SafeLoader with YAML 1.2 scalars, bounds, and without anchors, aliases and tags."""

    values = 0
    levels = 0

    def compose_node(self, parent: yaml.Node | None, index: Any) -> yaml.Node | None:
        event = self.peek_event()  # type: ignore[no-untyped-call]
        if isinstance(event, yaml.AliasEvent) or getattr(event, "anchor", None) is not None:
            raise _refused("anchors (&) and aliases (*) are not read; write the value out, or quote the text", event)
        if getattr(event, "tag", None) is not None:
            raise _refused(f"tags are not read; delete '{quoted(event.tag)}', or quote the text", event)
        self.values += 1
        if self.values > MOST_VALUES:
            raise _refused(f"more than {MOST_VALUES:,} keys and values; shorten it, or divide it", event)
        if self.levels == MOST_LEVELS:
            raise _refused(f"more than {MOST_LEVELS} lists and mappings within each other; write it flatter", event)
        self.levels += 1
        node: yaml.Node | None = super().compose_node(parent, index)
        self.levels -= 1
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
_Loader.add_constructor(_INT, _integer)


def _number(text: str) -> float:
    """`.inf` and `.nan` are YAML's; the rest is as Python writes it."""
    return float(text.lower().replace(".inf", "inf").replace(".nan", "nan"))


def read(
    path: Path, kind: str = "an experiment file", keys: str = "name:, data:, ..."
) -> tuple[dict[str, Any], dict[KeyPath, int]]:
    """Read a YAML mapping and the line of each of its keys.

    Args:
        path: the file.
        kind: what it is, for messages.
        keys: some of its keys, for messages.

    Raises:
        ValueError: the file is missing, too large, is not YAML, repeats a key, or is not a mapping.
    """
    text = _text(path, kind)
    lines: dict[KeyPath, int] = {}
    data = parse(text, lambda line: f"{path}:{line}" if line else f"{path}", lines)
    if not isinstance(data, dict):
        raise ValueError(f"{path}: {kind} is a mapping of keys ({keys}); this one is not.")
    return data, lines


def _text(path: Path, kind: str) -> str:
    try:
        with open(os.open(path, os.O_RDONLY | os.O_NONBLOCK), "rb") as file:  # a pipe without a writer would block
            if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
                raise ValueError(f"{path}: is not a regular file. Give the path of {kind}.")
            content = file.read(MOST_BYTES + 1)
    except OSError as error:
        raise ValueError(f"{path}: cannot be read ({error.strerror}). Give the path of {kind}.") from None
    if len(content) > MOST_BYTES:
        raise ValueError(f"{path}: more than {MOST_BYTES:,} bytes, which {kind} has not. Is it another file?")
    try:
        return content.decode("utf-8")
    except UnicodeDecodeError as error:
        line = error.object.count(b"\n", 0, error.start) + 1
        raise ValueError(f"{path}:{line}: is not UTF-8 text ({error.reason}). Save the file as UTF-8.") from None


def read_otherwise_by_ray(
    path: Path, experiment: dict[str, Any], root: tuple[str, ...]
) -> Iterator[tuple[KeyPath, Any]]:
    """The places below `root` where Ray, which reads YAML 1.1, reads another value than `experiment`; and its value.

    Raises:
        ValueError: Ray cannot read the file.
    """
    text = _text(path, "an experiment file")
    with contextlib.suppress(ValueError):
        json.loads(text)
        return  # Ray wrote this itself, from what it had read
    try:
        theirs = yaml.safe_load(text)
        for key in root:
            theirs = theirs[key]
    except (yaml.YAMLError, ValueError, KeyError, TypeError) as error:  # a date such as 2026-99-99 is a ValueError
        text = quoted(" ".join(str(error).split()), 300)
        raise ValueError(f"{path}: Ray cannot read this file: {text}") from None
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


def parse(text: str, place: Place, lines: dict[KeyPath, int]) -> Any:
    """The plain data of one YAML document; fills `lines`. `place` says where a line is, for messages.

    Raises:
        ValueError: not YAML, beyond the bounds above, a repeated key, or a value that is no plain data.
    """
    try:
        loader = _Loader(text)
        node = loader.get_single_node()
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        what = " ".join(part for part in (error.context, error.problem) if part)
        what = quoted(what, 300) + (". Indent with spaces" if "'\\t'" in what else "")
        raise ValueError(f"{place(mark.line + 1 if mark else None)}: not valid YAML: {what}") from None
    except yaml.reader.ReaderError as error:
        line = text.count("\n", 0, error.position) + 1
        raise ValueError(f"{place(line)}: not valid YAML: the character {text[error.position]!a}; delete it") from None
    except (ValueError, OverflowError):  # PyYAML's, of an escape such as "\\UFFFFFFFF" or %YAML 1.999...
        raise ValueError(f"{place(None)}: not valid YAML: no such escape sequence or version") from None
    if node is None:
        return None
    _walk(node, (), lines, place)
    return loader.construct_document(node)


def _walk(node: yaml.Node, at: KeyPath, lines: dict[KeyPath, int], place: Place) -> None:
    """Record the line of every key and list item below `node`; refuse repeated keys and keys that are not text."""
    if isinstance(node, yaml.MappingNode):
        for key, value in node.value:
            line = key.start_mark.line + 1
            if not isinstance(key, yaml.ScalarNode):
                raise ValueError(f"{place(line)}: a key is a plain word, not a list or a mapping.")
            if key.tag != _STR:
                raise ValueError(f"{place(line)}: the key '{quoted(key.value)}' is not text. Quote it, or correct it.")
            below = (*at, key.value)
            if not key.value.isprintable():
                raise ValueError(f"{place(line)}: {dotted(below)}: a key has no control characters; correct it.")
            if below in lines:
                raise ValueError(
                    f"{place(line)}: {dotted(below)}: duplicate key (first on line {lines[below]}). Delete one of them."
                )
            lines[below] = line
            _walk(value, below, lines, place)
    elif isinstance(node, yaml.SequenceNode):
        for index, value in enumerate(node.value):
            below = (*at, index)
            lines[below] = value.start_mark.line + 1
            _walk(value, below, lines, place)
    elif (problem := _unreadable(node)) is not None:
        raise ValueError(f"{place(node.start_mark.line + 1)}: {dotted(at)}{': ' if at else ''}{problem}")


def _unreadable(node: yaml.Node) -> str | None:
    """What is wrong with a plain value that its tag lets pass."""
    if node.tag == _FLOAT and not math.isfinite(_number(node.value)):
        return f"{quoted(node.value)} is not a finite number."
    if node.tag == _INT and len(node.value) > MOST_DIGITS:
        return f"{quoted(node.value)} has {len(node.value)} digits; at most {MOST_DIGITS} are read."
    if node.tag == _STR and any("\ud800" <= c <= "\udfff" or c == "\0" for c in node.value):
        return f"'{quoted(node.value)}' is not text: it has a NUL or half of a character; correct it."
    return None


def override(data: dict[str, Any], assignment: str) -> KeyPath:
    """Apply one `a.b.0.c=value` to `data` in place; the value is read as YAML. Returns the key path.

    Raises:
        ValueError: no `=`, an empty key, an index past the end of a list, or a path through a plain value.
    """
    key, sep, text = assignment.partition("=")
    parts, name = key.strip().split("."), f"--set {quoted(assignment)}"
    if not sep or not all(parts) or len(parts) > MOST_LEVELS or not key.strip().isprintable():
        raise ValueError(f"{name}: write it as key.path=value, for example --set train.steps=20")
    if len(text.encode("utf-8", "surrogateescape")) > MOST_BYTES:
        raise ValueError(f"{name}: the value has more than {MOST_BYTES:,} bytes; write it into the file")
    value = parse(text, lambda line: name, {})
    here: Any = data
    path: KeyPath = ()
    for depth, part in enumerate(parts):
        last = depth == len(parts) - 1
        if isinstance(here, list):
            if not part.isdecimal() or len(part) > MOST_DIGITS or int(part) >= len(here):
                raise ValueError(
                    f"{name}: {dotted(path)} is a list of {len(here)}; '{quoted(part)}' is not an index of it"
                )
            index: str | int = int(part)
        elif isinstance(here, dict):
            index = part
            if not last and here.get(part) is None:
                here[part] = {}
        else:
            raise ValueError(f"{name}: {dotted(path)} is the plain value {quoted(repr(here))}; it has no keys")
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
    return ".".join(quoted(part) for part in path)
