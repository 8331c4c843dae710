"""Markdown of the pages that are made from code."""

import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any


def table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A table; a vertical bar in a cell is escaped."""
    lines = (" | ".join(" ".join(cell.split()).replace("|", r"\|") for cell in cells) for cells in (head, *rows))
    first, *others = (f"| {line} |" for line in lines)
    return "\n".join([first, "|---" * len(head) + "|", *others])


def anchor(heading: str) -> str:
    """Of a heading, as GitHub and Python-Markdown both make it."""
    return re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-")


def listed(words: Iterable[str], last: str = "and") -> str:
    """`a, b and c`."""
    *before, end = [*words] or [""]
    return f"{', '.join(before)} {last} {end}" if before else end


def coded(words: Iterable[Any]) -> list[str]:
    """As code."""
    return [f"`{word}`" for word in words]


def filled(text: str) -> str:
    """Paragraphs on one line each; a page of docs/ that is named is a link."""
    text = re.sub(r"(?<![\w/])docs/([\w-]+)\.md", r"[\1](\1.md)", text)
    return "\n\n".join(" ".join(paragraph.split()) for paragraph in re.split(r"\n\s*\n", text))


LOW = {"minimum": "from {:,}", "exclusiveMinimum": "above {:,}"}
HIGH = {"maximum": "at most {:,}", "exclusiveMaximum": "below {:,}"}
LARGEST = 1e18
"""Bounds beyond are those of the type."""


def bounds(schema: Mapping[str, Any]) -> str:
    """The range of a number in words, from its JSON Schema; empty if it has none."""
    given = {key: value for key, value in schema.items() if key in LOW | HIGH and abs(value) < LARGEST}
    if schema.get("type") == "integer" and "exclusiveMinimum" in given:
        given["minimum"] = given.pop("exclusiveMinimum") + 1
    if "minimum" in given and "maximum" in given:
        return f"from {given['minimum']:,} to {given['maximum']:,}"
    return " and ".join(words[key].format(given[key]) for words in (LOW, HIGH) for key in words if key in given)
