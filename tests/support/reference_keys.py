"""docs/reference-keys.md: every key of an experiment file, from its schema."""

import json
import re
from collections.abc import Iterator
from functools import cache
from typing import Any

from harness.experiment import signatures
from harness.experiment.explain import arguments
from harness.experiment.method import dataset_entry
from harness.experiment.recipe import LOSSES
from harness.experiment.schema import json_schema
from tests.support.markdown import anchor, bounds, coded, filled, listed, table

Schema = dict[str, Any]
HEAD = """# Keys of an experiment file

Every key with its type, default and meaning, from the schema that editors read (`sstkd-bench schema`); [Experiment files](experiments.md) explains them
by task. `--set train.steps=20` overrides a key; an item of a list is named by its place: `--set pairs.0.teacher.steps=9`."""
NAMES = {
    "integer": "whole number",
    "number": "number",
    "string": "text",
    "boolean": "true or false",
    "null": "null",
    "object": "mapping",
}
HEADS = ("key", "type", "default", "meaning")
PATTERNS = {
    r"^[A-Za-z0-9][A-Za-z0-9._-]*$": "letters, digits, `.`, `_`, `-`",
    r"^[A-Za-z_][\w.]*:[A-Za-z_]\w*$": "`package.module:Name`",
    r"^[0-9a-f]{64}$": "64 hexadecimal digits",
    r"^(local|auto|[A-Za-z0-9.\-]+:[0-9]+|ray://.+)$": "`local`, `auto`, `HOST:PORT` or `ray://...`",
}
"""In words; other patterns are explained by the key's meaning."""


@cache
def definitions() -> dict[str, Schema]:
    """The schema's sections by name."""
    found: dict[str, Schema] = json_schema()["$defs"]
    return found


def page() -> str:
    """The page."""
    parts = [HEAD]
    seen: dict[str, str] = {}
    for path, name in sections("", "Experiment"):
        parts += list(_section(path, name, seen))
        seen.setdefault(name, path)
    return "\n\n".join(parts) + "\n"


def sections(path: str, name: str) -> Iterator[tuple[str, str]]:
    """Dotted path and definition of a section and all below it, in the order of the schema."""
    yield path, name
    for key, schema in properties(name).items():
        for below in referred(schema):
            yield from sections(f"{path}.{key}".lstrip("."), "Method" if below == "OneMethod" else below)


def properties(name: str) -> dict[str, Schema]:
    """The keys of a section; of one with two forms those of the first, which has our own names."""
    found = definitions()[name]
    keys: dict[str, Schema] = (found["anyOf"][0] if "properties" not in found else found)["properties"]
    return keys


def referred(schema: Schema) -> list[str]:
    """The sections that a key's value may be."""
    if "$ref" in schema:
        return [schema["$ref"].rpartition("/")[2]]
    inside = [*schema.get("anyOf", []), *([schema["items"]] if "items" in schema else [])]
    return list(dict.fromkeys(name for each in inside for name in referred(each)))


def _section(path: str, name: str, seen: dict[str, str]) -> Iterator[str]:
    found, keys = definitions()[name], properties(name)
    yield f"## {path or 'The whole file'}"
    if path:
        yield filled(found["description"])
    earlier = next((other for other in seen if keys.items() <= properties(other).items()), None)
    if earlier is not None:
        yield f"Keys as in [{seen[earlier]}](#{anchor(seen[earlier])}): {listed(coded(keys))}."
        return
    required = found.get("required", [])
    yield table(HEADS, (_row(path, key, schema, key in required) for key, schema in keys.items()))
    for other in found.get("anyOf", [])[1:]:
        own, needed = (listed(coded(sorted(other[which]))) for which in ("properties", "required"))
        yield f"With a class of torch as `name`: {own} and the class's keyword arguments; required: {needed}."
    if name == "LossTerm":
        yield _losses()
    if name == "Dataset":
        yield from _datasets(path)


def _row(path: str, key: str, schema: Schema, required: bool) -> tuple[str, ...]:
    below = [name for name in referred(schema) if name in definitions() and name != "OneMethod"]
    meaning = schema.get("description") or (definitions()[below[0]]["description"] if below else "")
    default = "required" if required else "" if below and schema.get("default") else _default(schema)
    return f"`{key}`", kind(schema, f"{path}.{key}".lstrip(".")), default, filled(meaning)


def _default(schema: Schema) -> str:
    default = schema.get("default", {} if schema.get("type") == "object" else None)
    return "" if default == "" else f"`{json.dumps(default)}`".replace('"', "")


def kind(schema: Schema, path: str = "") -> str:
    """The allowed values in words; of a section a link to it."""
    return listed(dict.fromkeys(_forms(schema, path)), "or")


def _forms(schema: Schema, path: str) -> list[str]:
    """Each form that a value may have."""
    if "$ref" in schema:
        name = schema["$ref"].rpartition("/")[2]
        return ["[method](reference-methods.md)" if name == "OneMethod" else f"[{path}](#{anchor(path)})"]
    if "const" in schema or "enum" in schema:
        return coded(schema.get("enum", [schema.get("const")]))
    if "anyOf" in schema:
        before: list[str] = []
        for each in schema["anyOf"]:
            before += _list(each, path, before) if each.get("type") == "array" else _forms(each, path)
        return before
    if schema["type"] == "array":
        return _list(schema, path, [])
    if schema["type"] == "string":
        length = f" of at most {schema['maxLength']:,} characters" if "maxLength" in schema else ""
        return [PATTERNS.get(schema.get("pattern", ""), f"text{length}")]
    return [" ".join(filter(None, [NAMES[schema["type"]], bounds(schema)]))]


def _list(schema: Schema, path: str, before: list[str]) -> list[str]:
    """A list in words; `before` are the other forms of the value."""
    items = schema.get("prefixItems") or [schema["items"]]
    forms = _forms(items[0], path)
    if forms == before:
        return ["a list of these"]
    said = re.sub(r"\b(number|text|mapping|method\]\([^)]*\))", _plural, listed(forms, "or"), count=1)
    return [f"list of {len(items)} {said}" if "prefixItems" in schema else f"list of {said}"]


def _plural(found: re.Match[str]) -> str:
    word, bracket, rest = found[0].partition("]")
    return f"{word}s{bracket}{rest}"


def _losses() -> str:
    """What the options are that the file does not give."""
    said = [
        f"{key} {json.dumps(value)} ({name})"
        for name, options in LOSSES.items()
        for key, value in options.items()
        if value is not None
    ]
    return f"When not given: {listed(said)}."


def _datasets(path: str) -> Iterator[str]:
    """The parameters of every dataset."""
    for name in sorted(signatures.table("harness.datasets", "DATASETS")):
        entry = dataset_entry(name)
        module, own = signatures.documentation(entry.target)
        meanings = arguments(own)[1]
        about = filled(module.partition("\n\n")[0]).partition(": ")[2]
        yield f"### {path}.parameters of {name}"
        yield _capital(about)
        schemas = entry.parameters.model_json_schema()["properties"]
        yield table(
            HEADS,
            (
                (f"`{key}`", kind(each), _default(each), _capital(meanings.get(key, "")))
                for key, each in schemas.items()
            ),
        )


def _capital(text: str) -> str:
    return text[:1].upper() + text[1:]
