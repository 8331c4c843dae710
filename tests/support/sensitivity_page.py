"""The tables of a page on SSTKD's sensitivity to its weights, from the rows of `experiments/sensitivity.yaml`.

`python -m tests.support.sensitivity_page FILE FOLDER [OVERRIDE ...]` prints them, FOLDER being the experiment's in the
results folder, an OVERRIDE what `--set` takes.
"""

import json
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from harness.analysis.columns import MEASURES
from harness.analysis.comparison import COLUMNS, quick_table
from harness.analysis.families import compared
from harness.analysis.labels import Label
from harness.analysis.lines import Comparison, MethodRow
from harness.analysis.tables import Block
from harness.analysis.teachers import Crossing
from harness.experiment.load import load
from harness.experiment.method import Method
from harness.experiment.spec import Experiment
from harness.results import store

Setting = tuple[float, float, float, bool]
"""Weight of the response; of the structural and statistical term in units of the paper's; whether there is a critic."""
PAPER = {"w_str": 0.9, "w_sta": 1.15}
LONGER = Label("none", control="equal seconds")
DIFFERENCES = {"none": "vs none", "own": f"vs {LONGER}", "kd": "vs kd"}
GROUPS: dict[str, Callable[[Setting], bool]] = {
    "The structural term alone": lambda s: s[0] == 0 and s[1] > 0 and s[2] == 0 and not s[3],
    "The statistical term alone": lambda s: s[0] == 0 and s[1] == 0 and s[2] > 0 and not s[3],
    "The structural term on top of the response": lambda s: s[0] > 0 and s[1] > 0 and s[2] == 0 and not s[3],
    "The statistical term on top of the response": lambda s: s[0] > 0 and s[1] == 0 and s[2] > 0 and not s[3],
    "Both by a common factor": lambda s: s[0] == 0 and s[1] > 0 and s[2] > 0 and not s[3],
    "Both at the paper's weights, with response and critic": lambda s: s[1] == s[2] == 1,
}


def page_lines(directory: Path, experiment: Experiment) -> list[str]:
    """The tables under their headings, then of what family their intervals are.

    Raises:
        ValueError: there is no row of the control for as long, or there are several pairs or teachers.
    """
    rows = store.read_rows(directory, list(COLUMNS))
    table = quick_table(rows, [method.label for method in experiment.methods], experiment.seeds)
    if len(table.blocks) > 1 or table.blocks[0].others:
        raise ValueError(f"{directory}: {len(table.blocks)} pairs; the page is of one pair and one teacher")
    (block,) = table.blocks
    found, count = differences(block, rows.to_pylist())
    references = [x for x in block.methods if x.name.method != "sstkd"]
    out = ["### References", "", *_head("line", "steps")]
    out += [_row([x.label, str(x.steps or "–")], x, found) for x in references]
    settings = {method.label: setting_of(method) for method in experiment.methods if method.name == "sstkd"}
    for heading, belongs in GROUPS.items():
        mine = {label: setting for label, setting in settings.items() if belongs(setting)}
        lines = [(block.line(label), setting) for label, setting in mine.items()]
        out += ["", f"### {heading}", "", *_head("response", "structural", "statistical", "critic")]
        out += [_row(_texts(setting), line, found) for line, setting in lines if line is not None]
    family = f"{count} comparisons are corrected together, those with `{LONGER}` included; in `sstkd-bench tables`, {block.comparisons}."
    return [*out, "", family]


def setting_of(method: Method) -> Setting:
    """The weights of a line of `sstkd`."""
    given = method.parameters
    factors = (round(given[name] / weight, 6) for name, weight in PAPER.items())
    return given["w_re"], *factors, given["w_adv"] > 0  # type: ignore[return-value]


def differences(block: Block, rows: list[dict[str, Any]]) -> tuple[Mapping[tuple[Label, str], Comparison], int]:
    """Every line against none, kd and ("own") none for as long, with intervals that hold together; how many these are."""
    named = {x.reference: x.name for x in block.methods if x.reference}
    if all(x.name != LONGER or x.miou is None for x in block.methods):
        raise ValueError(
            f"no result of {LONGER}; `budget: {{longer: false}}` leaves it out, and so does controls: false"
        )
    failed: dict[Label, set[Any]] = {x.name: set() for x in block.methods}
    for row in rows:
        if row["role"] == "student" and row["status"] == "failed":
            failed[_label(row)].add(row["seed"])
    values = {x.name: x.values for x in block.methods}
    failed = {name: keys - values[name].keys() for name, keys in failed.items()}
    own = {name: LONGER for name in values if name != LONGER}
    return compared(values, failed, named, own, Crossing({}))


def _label(row: Mapping[str, Any]) -> Label:
    if row["control"] is not None:
        return Label(row["method"], control=row["control"])
    return Label.read(Method(name=row["method"], parameters=json.loads(row["method_parameters"])).label)


def _head(*names: str) -> list[str]:
    head = [*names, "mIoU (val)", *DIFFERENCES.values()]
    return [f"| {' | '.join(head)} |", "|---|" + "---:|" * (len(head) - 1)]


def _texts(setting: Setting) -> list[str]:
    *weights, critic = setting
    return [*("–" if not weight else f"{weight:g}" for weight in weights), "yes" if critic else "–"]


def _row(first: list[str], line: MethodRow, found: Mapping[tuple[Label, str], Comparison]) -> str:
    score = next(measure for measure in MEASURES if measure.column.name == "mIoU (val)").cell(line)
    against = [c.text if (c := found.get((line.name, what))) else "–" for what in DIFFERENCES]
    return f"| {' | '.join([*first, str(score), *against])} |"


if __name__ == "__main__":
    print("\n".join(page_lines(Path(sys.argv[2]), load(sys.argv[1], sys.argv[3:]))))
