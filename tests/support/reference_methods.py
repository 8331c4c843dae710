"""docs/reference-methods.md: a section for every method."""

import ast
import csv
import json
import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from statistics import mean
from typing import Any

from harness.experiment import signatures
from harness.experiment.explain import Description, Parameter, describe
from harness.experiment.method import Method, method_entry
from harness.results import store
from tests.oracles.not_ours import NOT_OURS
from tests.support.equations import EQUATIONS, NOTATION
from tests.support.markdown import bounds, coded, filled, listed, table

ROOT = Path(__file__).parents[2]
ORACLES = ROOT / "tests" / "oracles" / "distillers" / "INDEX.json"
PAIR = ROOT / "results" / "examples" / "compare-distillers"
Range = dict[str, float]
HEAD = """# Methods

Every method with its equation, parameters and source, as its file in `harness/distillers` has them; `sstkd-bench methods NAME` prints the same at a
terminal, and [Distillers](distillers.md) compares the methods. This page is made from the code. In all equations:"""
SEARCHED = """A search draws a parameter log-uniformly from the range that is given as searched, and keeps the others. Losses agree with numbers of authors' code to
1e-9, gradients to 1e-6 ([how](distillers.md#tests-against-the-authors-code))."""
NEAR = ("encoder", "decoder")
POSITIVE, WEIGHT = {"exclusiveMinimum": 0}, {"minimum": 0}
SHARE = {"minimum": 0, "exclusiveMaximum": 1}
CHECKS: dict[str, Range] = {"check_positive": POSITIVE, "check_weights": WEIGHT}
"""What the functions of harness/distillers/_ops.py demand of a number."""
CRITIC: dict[str, Range] = {"critic_lr": POSITIVE, "gradient_penalty": POSITIVE}
OTHERS: dict[str, dict[str, Range]] = {
    "skd": {"scale": {"exclusiveMinimum": 0, "maximum": 1}, **CRITIC},
    "ifvd": CRITIC,
    "mgd": {"dropped": SHARE},
    "af-dcd": {"dropped": SHARE},
    "sstkd": {
        **dict.fromkeys(("w_re", "w_str", "w_sta", "w_adv", "congruence", "gradient_penalty"), WEIGHT),
        **dict.fromkeys(("temperature", "critic_lr"), POSITIVE),
        "quantization_relaxation": {"exclusiveMinimum": 0, "exclusiveMaximum": 1},
        "quantization_min_range": {"minimum": 0, "maximum": 2},
        "clip_limit": {"minimum": 1},
        "region_important": {"minimum": 0, "maximum": 1},
    },
}
"""Ranges of other numbers, as JSON Schema has them; a test builds each method at their ends."""


def page() -> str:
    """The page."""
    notation = "\n".join(f"- {letter}: {what}" for letter, what in NOTATION.items())
    return "\n\n".join([HEAD, notation, SEARCHED, *map(section, methods())]) + "\n"


def methods() -> list[str]:
    """Names, in the order of the METHODS table."""
    return list(signatures.table("harness.distillers", "METHODS"))


def section(name: str) -> str:
    """The section of a method."""
    found, equation = describe(name), EQUATIONS[name]
    parts = [f"## {name}", filled(found.about[0].partition("\n    ")[0])]
    parts += [f"$$\n{tex}\n$$" for tex in (equation.loss, *equation.parts)]
    if equation.letters:
        parts.append("\n".join(f"- {letter}: {what}" for letter, what in equation.letters.items()))
    facts = {
        "Needs": needs(name),
        **dict(_source(found)),
        "Caveat": found.caveat,
        "Tests": _tests(name),
        "Agrees with": _numbers(equation.oracles),
        "On one pair": _on_one_pair(name),
    }
    rows = [(label, text) for label, text in facts.items() if text]
    parts.append(table(("Terms", listed(coded(terms(name))) or "none"), rows))
    if found.parameters:
        ranges = checked(name)
        rows = [_row(name, each, bounds(ranges.get(each.name, {}))) for each in found.parameters]
        parts.append(table(("parameter", "default", "values", "meaning"), rows))
    return "\n\n".join(parts + [_shown(filled(paragraph)) for paragraph in found.remarks])


def _row(name: str, parameter: Parameter, bound: str) -> tuple[str, ...]:
    values = parameter.allowed.replace("number", f"number {bound}", 1) if bound else parameter.allowed
    if parameter.searched:
        optional = parameter.name in method_entry(name).constants.get("optional", ())
        values += f"; searched: {'0 or ' * optional}{parameter.searched}"
    return f"`{parameter.name}`", f"`{parameter.default}`", values, _shown(parameter.meaning)


def _shown(text: str) -> str:
    """A text of the documentation with links: to arXiv, to repositories, to the table of conventions."""
    text = re.sub(r"arXiv (\d{4}\.\d{4,5})", r"[arXiv \1](https://arxiv.org/abs/\1)", text)
    text = re.sub(r"(?<![(<\[])(https://[^\s,]+?)(?=[.,;]?(?:\s|$))", r"<\1>", text)
    for repository in _repositories():
        text = text.replace(repository, f"[{repository}](https://github.com/{repository})")
    text = re.sub(r"see `(?:kd|cwd)_loss`", "see [conventions](distillers.md#conventions)", text)
    return filled(text)


def _source(found: Description) -> Iterator[tuple[str, str]]:
    """`Paper`, `Authors' code`, `Deviation`, `Reduction` and what each says."""
    for item in found.source:
        label, colon, text = item.partition(": ")
        labelled = colon and re.fullmatch(r"[A-Z][\w' ]{2,15}", label)
        yield (label, _shown(text)) if labelled else ("Source", _shown(item))


def _tree(name: str) -> tuple[ast.Module, ast.ClassDef]:
    module, _, symbol = method_entry(name).target.partition(":")
    tree = ast.parse(signatures.source_file(module).read_text())
    return tree, next(node for node in tree.body if isinstance(node, ast.ClassDef) and node.name == symbol)


def _function(of: ast.ClassDef, name: str) -> ast.FunctionDef | None:
    return next((node for node in of.body if isinstance(node, ast.FunctionDef) and node.name == name), None)


def terms(name: str) -> list[str]:
    """The names of a method's terms, as the documentation of `forward` has them."""
    forward = _function(_tree(name)[1], "forward")
    return re.findall(r'"(\w+)"', (ast.get_docstring(forward) or "").split("\n")[0]) if forward else []


def needs(name: str) -> str:
    """What a method reads with every term on."""
    reads, entry = EQUATIONS[name].reads, method_entry(name)
    if not entry.constants.get("needs_teacher", True):
        return "nothing; no teacher runs"
    fields = entry.parameters.model_fields
    choose = {key: fields[key].default for key in ("tap", "taps", "stages") if key in fields}
    chosen = {tap: key for key, default in choose.items() for tap in ([default] if key == "tap" else default)}
    taps = coded(tap for tap in reads if tap in chosen)
    said = [f"the map{'s' * (len(taps) > 1)} {listed(taps)} (`{next(iter(choose))}`)"] if taps else []
    said += ["the logits"] if "logits" in reads and "logits" not in chosen else []
    return f"{listed(said)} of both networks{', and the labels' if 'labels' in reads else ''}"


def checked(name: str) -> dict[str, Range]:
    """The range of each number that may not be any: what `__init__` passes to a function of `CHECKS`, and `OTHERS`."""
    init = _function(_tree(name)[1], "__init__")
    calls = [node for node in ast.walk(init) if isinstance(node, ast.Call)] if init else []
    found = {
        word.arg: CHECKS[call.func.id]
        for call in calls
        if isinstance(call.func, ast.Name) and call.func.id in CHECKS
        for word in call.keywords
        if word.arg is not None
    }
    fields = method_entry(name).parameters.model_fields
    return {key: found[key] for key in fields if key in found and fields[key].annotation is float} | OTHERS.get(
        name, {}
    )


@cache
def _cases() -> list[dict[str, Any]]:
    """Conventions of the authors' code that tests compare with, once each."""
    index: dict[str, Any] = json.loads(ORACLES.read_text())
    found = {}
    for case in index["cases"]:
        for convention in case["conventions"]:
            key = (case["method"], convention["convention"])
            if key not in NOT_OURS:
                found.setdefault(key, convention | {"method": case["method"]})
    return list(found.values())


@cache
def _repositories() -> list[str]:
    return sorted({case["repo"].partition(" ")[0] for case in _cases()})


def _numbers(oracles: tuple[str, ...]) -> str:
    """The functions whose numbers a method's terms agree with, by repository."""
    by_repository: dict[str, list[str]] = {}
    for case in _cases():
        if f"{case['method']}/{case['convention']}".startswith(oracles or ("-",)):
            repository = case["repo"]
            if case["commit"]:
                repository = f"[{repository}](https://github.com/{repository}/tree/{case['commit']})"
            symbols = coded(re.sub(r" (\(|called).*", "", case["symbol"]).split(", "))
            known = by_repository.setdefault(repository, [])
            known += [symbol for symbol in symbols if symbol not in known]
    return "; ".join(f"{listed(symbols)} of {repository}" for repository, symbols in by_repository.items())


def _tests(name: str) -> str:
    """The tests of its equation, each once by file."""
    by_file: dict[str, list[str]] = {}
    for test in EQUATIONS[name].tests:
        file, _, function = test.partition("::")
        by_file.setdefault(file, []).append(function)
    return "; ".join(f"{listed(coded(functions))} in `tests/{file}`" for file, functions in by_file.items())


@cache
def _students() -> dict[str, list[dict[str, float]]]:
    """Of the comparison of every method, by label: how near each seed's student is to its teacher."""
    with (PAIR / "nearness.csv").open(newline="") as file:
        near = {row["run_id"]: {place: float(row[place]) for place in NEAR} for row in csv.DictReader(file)}
    found: dict[str, list[dict[str, float]]] = {}
    for row in store.read_rows(PAIR, ["run_id", "method", "method_parameters", "control"]).to_pylist():
        if row["run_id"] in near and row["control"] is None:
            label = Method(name=row["method"], parameters=json.loads(row["method_parameters"])).label
            found.setdefault(label, []).append(near[row["run_id"]])
    return found


def _on_one_pair(name: str) -> str:
    """How near its students came there, beside those without distillation."""
    labels = sorted((label for label in _students() if re.fullmatch(rf"{name}(\(.*\))?", label)), key=len)
    if name == "none" or not labels:
        return ""
    label = labels[0]
    ours, without = ({place: mean(x[place] for x in _students()[one]) for place in NEAR} for one in (label, "none"))
    said = listed(f"{ours[place]:.2f} at the {place} (`none` {without[place]:.2f})" for place in NEAR)
    seeds = len(_students()[label])
    return (
        f"similarity of `{label}` to its teacher: {said}, means of {seeds} seeds"
        " ([what they gain](distillers.md#every-method-on-one-pair))"
    )
