"""The reference pages of docs/ are what the code gives, and their equations are TeX that every reader converts."""

import ast
import inspect
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import typer

from harness.cli.app import app
from harness.experiment.load import FILLED_IN
from harness.experiment.method import method_entry
from harness.experiment.spec import Experiment
from harness.experiment.weights import FILLED_IN as FILLED_IN_OF_WEIGHTS
from tests.support import markdown, reference, reference_keys, reference_methods
from tests.support.equations import EQUATIONS

ROOT = Path(__file__).parents[2]
TEX = [(name, tex) for name, equation in EQUATIONS.items() for tex in (equation.loss, *equation.parts)]
WORDS = (
    r"bar Delta delta exp frac lambda left log lVert lvert max nabla neq odot quad rho right rVert rvert sigma space sum "
    r"tau text theta top"
)
"""Commands that latex2mathml 3.81 and GitHub convert."""


def written(page: str) -> str:
    return (ROOT / "docs" / page).read_text()


@pytest.mark.parametrize("page", reference.PAGES)
def test_a_page_is_what_the_code_gives(page: str) -> None:
    assert written(page) == reference.PAGES[page](), f"write it anew: {reference.COMMAND}"


# --- Methods -----------------------------------------------------------------------------------------------------------


def test_every_method_has_an_equation() -> None:
    assert list(EQUATIONS) == reference_methods.methods()
    assert re.findall(r"^## (.*)$", written("reference-methods.md"), re.MULTILINE) == list(EQUATIONS)


@pytest.mark.parametrize(("name", "tex"), TEX)
def test_an_equation_is_tex_that_every_reader_converts(name: str, tex: str) -> None:
    depth = 0
    for character in tex:
        depth += {"{": 1, "}": -1}.get(character, 0)
        assert depth >= 0, tex
    assert depth == 0 and tex.count("(") == tex.count(")") and tex.count("[") == tex.count("]")
    assert tex.count(r"\left") == tex.count(r"\right") and tex.count(r"\lVert") == tex.count(r"\rVert")
    assert set(re.findall(r"\\([A-Za-z]+)", tex)) <= set(WORDS.split())
    # What Markdown takes for something else: escapes, tables, tags, several lines.
    assert not re.search(r"\\[^A-Za-z]|[<>&$|~*`\n]|__", tex)


@pytest.mark.parametrize("name", EQUATIONS)
def test_every_weight_of_a_method_is_in_its_equation(name: str) -> None:
    entry = method_entry(name)
    weights = [each for each in entry.constants.get("weights", ("weight",)) if each in entry.parameters.model_fields]
    found = re.findall(r"w_\{\\text\{(\w+)\}\}", EQUATIONS[name].loss)
    assert found == [weight.removeprefix("w_") for weight in weights]


@pytest.mark.parametrize("name", EQUATIONS)
def test_the_tests_of_an_equation_exist(name: str) -> None:
    assert bool(EQUATIONS[name].tests) == (name != "none")
    for test in EQUATIONS[name].tests:
        file, _, function = test.partition("::")
        tree = ast.parse((ROOT / "tests" / file).read_text())
        assert function in {node.name for node in tree.body if isinstance(node, ast.FunctionDef)}, test


def test_every_number_of_authors_code_is_some_methods() -> None:
    cases = {f"{case['method']}/{case['convention']}" for case in reference_methods._cases()}
    named = {oracle for equation in EQUATIONS.values() for oracle in equation.oracles}
    assert {case for case in cases if not case.startswith(tuple(named))} == set()
    assert {oracle for oracle in named if not any(case.startswith(oracle) for case in cases)} == set()


# --- Keys --------------------------------------------------------------------------------------------------------------


def models(path: str, model: Any) -> Iterator[tuple[str, str]]:
    """Section and key of every field, by the models and not by the schema."""
    for key, field in model.model_fields.items():
        if key in (*FILLED_IN, *FILLED_IN_OF_WEIGHTS):
            continue
        yield path, key
        pending, inside = [field.annotation], []
        while pending:
            each = pending.pop()
            pending += getattr(each, "__args__", ())
            inside += [each] if inspect.isclass(each) and hasattr(each, "model_fields") else []
        for below in inside:
            yield from models(f"{path}.{key}".lstrip("."), below)


def test_every_key_of_every_model_is_on_the_page() -> None:
    page = written("reference-keys.md")
    sections = dict(re.findall(r"^## (.*)\n((?:(?!## ).*\n?)*)", page, re.MULTILINE))
    keys = set(models("", Experiment))
    missing = {(path, key) for path, key in keys if f"`{key}`" not in sections.get(path or "The whole file", "")}
    # What they hold stands beside `name` in a file.
    assert missing == {("train.optimizer", "parameters"), ("train.schedule", "parameters")} and len(keys) > 100


def test_every_section_is_linked_where_its_key_is() -> None:
    page = written("reference-keys.md")
    anchors = {markdown.anchor(title) for title in re.findall(r"^##+ (.*)$", page, re.MULTILINE)}
    assert set(re.findall(r"\]\(#([^)]*)\)", page)) <= anchors


@pytest.mark.parametrize(
    ("schema", "said"),
    [
        ({"type": "integer", "exclusiveMinimum": 0, "maximum": 8192}, "whole number from 1 to 8,192"),
        ({"type": "number", "exclusiveMinimum": 0, "maximum": 1e30}, "number above 0"),
        ({"type": "number", "minimum": 0, "exclusiveMaximum": 1}, "number from 0 and below 1"),
        ({"type": "integer", "minimum": -(2**63), "maximum": 2**63 - 1}, "whole number"),
        ({"type": "string", "maxLength": 9}, "text of at most 9 characters"),
        ({"anyOf": [{"enum": ["a", "b"]}, {"type": "null"}]}, "`a`, `b` or null"),
        ({"type": "array", "items": {"type": "number"}}, "list of numbers"),
        ({"type": "array", "prefixItems": [{"type": "integer"}] * 2}, "list of 2 whole numbers"),
        ({"anyOf": [{"type": "string"}, {"type": "array", "items": {"type": "string"}}]}, "text or a list of these"),
        ({"$ref": "#/$defs/Train"}, "[at.key](#atkey)"),
    ],
    ids=lambda given: given if isinstance(given, str) else "",
)
def test_a_type_in_words(schema: dict[str, Any], said: str) -> None:
    assert reference_keys.kind(schema, "at.key") == said


def test_a_bar_in_a_table_is_escaped_and_a_page_that_is_named_is_a_link() -> None:
    assert markdown.table(("a", "b"), [("x|y", "two\nlines")]) == "| a | b |\n|---|---|\n| x\\|y | two lines |"
    assert markdown.filled("see docs/own-data.md\nfirst\n\nnext") == "see [own-data](own-data.md) first\n\nnext"


# --- Commands ----------------------------------------------------------------------------------------------------------


def commands(command: Any, words: str = "") -> Iterator[tuple[str, Any]]:
    for name, below in getattr(command, "commands", {}).items():
        yield f"{words} {name}".strip(), below
        yield from commands(below, f"{words} {name}".strip())


@pytest.mark.parametrize(
    ("words", "command"), list(commands(typer.main.get_command(app))), ids=lambda given: str(given)[:20]
)
def test_every_command_has_its_options(words: str, command: Any) -> None:
    page = written("reference-commands.md")
    text = re.split(r"^###+ ", page.partition(f"# {words}\n")[2], maxsplit=1, flags=re.MULTILINE)[0]
    assert " ".join(command.help.split()) in " ".join(text.split()), "a section with the whole help"
    named = set(
        re.findall(r"(?<![\w-])--?[a-z][\w-]*", text.partition("```\n| arg")[2] or text.partition("meaning |")[2])
    )
    options = {name for each in command.params for name in (*each.opts, *each.secondary_opts) if name.startswith("-")}
    assert options <= named and bool(options - {"--help", "-h"}) == ("[OPTIONS]" in text)
    assert all(each.help.split("\n")[0][:30] in text for each in command.params if getattr(each, "help", None))
