"""A method's documentation as text for a terminal, read from its source without importing it.

Equation and source are the file's docstring, the meaning of a parameter is the class's, and defaults, allowed values
and ranges are the signature's and the class's `space`, as everywhere.
"""

import re
import textwrap
import types
import typing
from collections.abc import Iterator
from typing import Any, NamedTuple

from harness.experiment.method import compact, method_entry
from harness.experiment.signatures import Entry, documentation

WIDTH = 80
NARROWEST = 34
"""Characters of a column of meanings; where less is left, a meaning has lines of its own."""
_NAMES: dict[Any, str] = {int: "whole number", float: "number", bool: "true or false", str: "text", type(None): "null"}


class Parameter(NamedTuple):
    """A parameter in words."""

    name: str
    default: str
    """As an experiment file has it; `required` where there is none."""
    searched: str
    """The range of a search; empty where none varies it."""
    allowed: str
    meaning: str
    """Empty where the documentation has none; without a full stop."""


class Description(NamedTuple):
    """A method's documentation, part by part."""

    about: list[str]
    """Paragraphs on what it is: the first in words, then the equations."""
    remarks: list[str]
    """Paragraphs on its parameters as a whole."""
    parameters: list[Parameter]
    source: list[str]
    """`Paper: ...`, `Authors' code: ...`, each on one line."""
    caveat: str
    """What every table states about the default values; empty if nothing."""


def describe(name: str) -> Description:
    """What a method is, as data.

    Args:
        name: of the METHODS table, or `package.module:Class`.

    Raises:
        ValueError: there is no such method, or its source cannot be read.
    """
    entry = method_entry(name)
    module, own = documentation(entry.target)
    own_text, meanings = arguments(own)
    paragraphs = re.split(r"\n\s*\n", module or own_text)
    first = next((i for i, p in enumerate(paragraphs) if _is_source(p)), len(paragraphs))
    source = [item for p in paragraphs[first:] for item in _labelled(p)]
    return Description(
        [paragraph for paragraph in paragraphs[:first] if paragraph.strip()],
        re.split(r"\n\s*\n", own_text)[1:] if module else [],
        list(_parameters(entry, meanings)),
        source or [str(entry.constants.get("paper") or "none")],
        entry.constants.get("caveat", ""),
    )


def explain(name: str, width: int = WIDTH) -> str:
    """What a method is: equation, parameters, source.

    Args:
        name: of the METHODS table, or `package.module:Class`.
        width: characters of a line.

    Raises:
        ValueError: there is no such method, or its source cannot be read.
    """
    found = describe(name)
    parts = [name, *(_wrapped(paragraph, width) for paragraph in found.about + found.remarks)]
    parts.append("\n".join(["Parameters", *_table(found.parameters, width)]))
    source = [
        line for item in found.source for line in textwrap.wrap(item, width - 2, subsequent_indent="  ", **_AS_WRITTEN)
    ]
    parts.append("\n".join(["Source", *(f"  {line}" for line in source)]))
    if found.caveat:
        parts.append("\n".join(["Caveat", *(f"  {line}" for line in textwrap.wrap(found.caveat, width - 2))]))
    return "\n\n".join(parts)


def _is_source(paragraph: str) -> bool:
    return re.match(r"Paper:", paragraph) is not None or re.search(r"arXiv \d|https://", paragraph) is not None


def _labelled(paragraph: str) -> list[str]:
    """`Paper: ...`, `Authors' code: ...` of a paragraph, each on one line."""
    return [" ".join(item.split()) for item in re.split(r"\n(?=[A-Z][\w' ]*: )", paragraph)]


_AS_WRITTEN: Any = {"break_long_words": False, "break_on_hyphens": False}


def _wrapped(paragraph: str, width: int) -> str:
    """Prose filled anew; equations line by line, what is too long continued further in."""
    lines = paragraph.splitlines()
    if not any(line.startswith("    ") for line in lines):
        return textwrap.fill(" ".join(paragraph.split()), width, **_AS_WRITTEN)
    found: list[str] = []
    for line in lines:
        margin = " " * (len(line) - len(line.lstrip()) + 4)
        first, *more = re.split(r"(?<=,) {2,}", line) if len(line) > width else [line]  # a definition that follows
        for text in (first, *(margin + each for each in more)):
            kept = textwrap.wrap(text, width, subsequent_indent=margin, **_AS_WRITTEN)
            found += kept if len(text) > width else [text]
    return "\n".join(found)


def _parameters(entry: Entry, meanings: dict[str, str]) -> Iterator[Parameter]:
    space = entry.constants.get("space", {})
    for name, field in entry.parameters.model_fields.items():
        default = "required" if field.is_required() else _value(field.default)
        searched = "{:g} to {:g}".format(*space[name]) if name in space else ""
        yield Parameter(name, default, searched, allowed(field), meanings.get(name, "").rstrip("."))


def _table(parameters: list[Parameter], width: int) -> Iterator[str]:
    """A line for each parameter: name, default, range of a search, allowed values and meaning."""
    rows = [
        (each.name, each.default, each.searched or "-", "; ".join(filter(None, [each.allowed, each.meaning])))
        for each in parameters
    ]
    if not rows:
        yield "  none"
        return
    head = ("name", "default", "search", "allowed values; meaning")
    wide = [max(len(row[i]) for row in [head, *rows]) for i in range(3)]
    left = width - 2 - sum(wide) - 6
    for row in [head, *rows]:
        start = "  " + "".join(f"{cell:{size}}  " for cell, size in zip(row[:3], wide, strict=True))
        if left >= NARROWEST:
            yield from textwrap.wrap(row[3], width, initial_indent=start, subsequent_indent=" " * len(start))
        else:
            yield start.rstrip()
            yield from textwrap.wrap(row[3], width, initial_indent=" " * 6, subsequent_indent=" " * 6)


def _value(default: Any) -> str:
    """As an experiment file has it."""
    if isinstance(default, tuple):
        return f"[{', '.join(map(_value, default))}]"
    return compact(default)


def allowed(field: Any) -> str:
    """The allowed values of a parameter, in words."""
    low = next((m.ge for m in field.metadata if hasattr(m, "ge")), None)
    high = next((m.le for m in field.metadata if hasattr(m, "le")), None)
    text = _kind(field.annotation)
    return text if low is None or abs(low) >= 2**62 else f"{text}, {low:g} to {high:g}"


def _kind(annotation: Any) -> str:
    origin, inside = typing.get_origin(annotation), typing.get_args(annotation)
    if origin is typing.Literal:
        return _or([str(item) for item in inside])
    if origin in (typing.Union, types.UnionType):
        return _or([_kind(item) for item in inside])
    if origin is tuple:
        several = len(inside) == 2 and inside[1] is ...
        return f"list of {_kind(inside[0])}s" if several else f"list of {len(inside)}: {', '.join(map(_kind, inside))}"
    if origin is typing.Annotated:
        return _kind(inside[0])
    return _NAMES.get(annotation, str(annotation))


def _or(items: list[str]) -> str:
    return " or ".join(filter(None, [", ".join(items[:-1]), items[-1]]))


def arguments(docstring: str) -> tuple[str, dict[str, str]]:
    """The text before a docstring's sections, and what its section `Args` says of each parameter."""
    before, *sections = re.split(r"\n\n(?=[A-Z]\w+:\n)", docstring)
    listed = next((section for section in sections if section.startswith("Args:")), "")
    found = re.findall(r"^    (\w+): (.*(?:\n {5,}.*)*)", listed, re.MULTILINE)
    return before, {name: " ".join(text.split()) for name, text in found}
