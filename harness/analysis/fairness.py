"""What a comparison compares, and what makes it unfair: from the experiment before it runs, from its table afterwards.

Rows that must not be compared at all (another recipe, budget, teacher, data, protocol) never get here:
`harness.analysis.comparison` refuses them. What is said here weakens a comparison, or has to be known to read it.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from harness.analysis.power import phrase
from harness.analysis.tables import REFERENCES, Block, Finding, references
from harness.experiment import rules
from harness.experiment.recipe import control_label

if TYPE_CHECKING:
    from harness.experiment.spec import Experiment

FEWEST_SEEDS = 3
UNEQUAL_TIME = 1.1  # seconds beyond those of the plain student
_SHARED = "Equal for all: recipe, budget, data and its order, teacher, and the student's initial weights of each seed."


@dataclass(frozen=True)
class Side:
    """One method of a comparison.

    Attributes:
        label: its line's name.
        runs: how many results it has, or will have.
        failed, missing: how many of its runs failed, or are not there.
        trials, search_s: of its search, and the seconds they took; None without one, or where they were not measured.
        step_s: seconds of a training step; None where they were not measured.
        seconds: of all training steps; None where they were not measured.
        miou: mean dev mIoU in percent points; None without a result.
    """

    label: str
    runs: int
    failed: int = 0
    missing: int = 0
    trials: int | None = None
    search_s: float | None = None
    step_s: float | None = None
    seconds: float | None = None
    miou: float | None = None


def of_block(block: Block) -> dict[str, Any]:
    """The fields `compared` and `findings` of a block that is otherwise complete."""
    sides = [
        Side(
            label=x.label,
            runs=len(x.run_ids),
            failed=x.failed,
            missing=x.missing,
            trials=x.search_trials,
            search_s=x.search_seconds,
            step_s=x.step_s,
            seconds=None if x.step_s is None or x.steps is None else x.step_s * x.steps,
            miou=None if x.miou is None else x.miou.mean,
        )
        for x in block.methods
        if x.missing < x.expected  # a control that nobody asked for is no line with missing runs
    ]
    seeds = max((x.expected for x in block.methods), default=0)
    absent = [x.label for x in block.methods if x.missing == x.expected and x.label not in REFERENCES]
    findings = judged(
        sides,
        seeds,
        block.ruleset,
        teacher_miou=block.teacher.miou,
        floor=block.floor,
        devices=tuple(block.devices.split(", ")),
        references=block.references,
        unit=block.budget_unit,
    )
    if absent:
        findings.insert(0, Finding(True, f"not run: {', '.join(absent)}"))
    if power := phrase(block):
        findings.append(Finding(False, power))
    where = f"{block.pair} on {block.dataset}"
    compared = sentence([x.label for x in block.methods], seeds, where, block.comparisons)
    return {"compared": compared, "findings": tuple(findings)}


def of_experiment(
    experiment: "Experiment", step_seconds: Mapping[tuple[str, str, str], float] | None = None
) -> dict[str, tuple[str, list[Finding]]]:
    """What will be compared, and what is unfair about it already, by pair.

    Args:
        experiment: any.
        step_seconds: by (pair, role, method label), as `harness.training.estimate.step_seconds` measures them.
    """
    search, out = experiment.search, {}
    labels = rules.labels(experiment)
    for pair in experiment.pairs:
        sides = [
            Side(
                label=label,
                runs=len(experiment.seeds),
                trials=None if search is None else search.trials,
                step_s=(step_seconds or {}).get((pair.name, "student", label)),
            )
            for label in labels
        ]
        named = references(labels)
        findings = judged(
            sides,
            len(experiment.seeds),
            experiment.protocol.ruleset,
            references=named,
            unit=experiment.budget.unit,
        )
        comparisons = sum(label != ref for ref in named.values() if ref for label in labels)
        # kd against none and none against kd are one comparison.
        comparisons -= all(named.values())
        text = sentence(labels, len(experiment.seeds), f"{pair.name} on {experiment.data.name}", comparisons)
        out[pair.name] = (text, findings)
    return out


def sentence(labels: list[str], seeds: int, where: str, comparisons: int) -> str:
    """What is compared with what, in one phrase."""
    named = ", ".join(labels)
    return (
        f"{where}: {named}, each against {' and '.join(REFERENCES)}, paired over {seeds} "
        f"{'seed' if seeds == 1 else 'seeds'}; {comparisons} {'comparison' if comparisons == 1 else 'comparisons'}, "
        f"corrected together. {_SHARED}"
    )


def judged(
    sides: list[Side],
    seeds: int,
    ruleset: str,
    references: Mapping[str, str | None],
    unit: str,
    teacher_miou: float | None = None,
    floor: float | None = None,
    devices: tuple[str, ...] = (),
) -> list[Finding]:
    """What makes a comparison unfair, then what else must be known of it.

    Args:
        sides: its methods.
        seeds: how many runs each should have.
        ruleset: of the protocol.
        references: the label that stands for each of `REFERENCES`; None where it is missing.
        unit: of the budget, "steps" or "seconds".
        teacher_miou: dev mIoU in percent points.
        floor: mIoU of the best look-up from a single pixel, in percent points.
        devices: on which the runs ran.
    """
    plain = next((s for s in sides if s.label == references["none"]), None)
    unfair = [*_seeds(sides, seeds), *_trials(sides, ruleset)]
    for name, label in references.items():
        if label is None or all(s.label != label for s in sides):
            unfair.append(f"the control {name} is missing: {_WHY[name]}")
    if plain is not None and plain.miou is not None:
        if floor is not None and plain.miou <= floor:
            unfair.append(
                f"the plain student ({plain.miou:.2f}) is no better than the floor ({floor:.2f}): it has learned "
                "nothing that a gain could be measured against"
            )
        if teacher_miou is not None and teacher_miou <= plain.miou:
            unfair.append(
                f"the teacher ({teacher_miou:.2f}) is no better than the plain student ({plain.miou:.2f}): what it has "
                "to teach is in doubt"
            )
    if unit == "seconds" and plain is not None and (off := _unequal(sides, plain)):
        unfair.append(
            f"the seconds are not equal; those of training in units of {plain.label}'s: {off}. The workers were busier "
            "at one time than at another: delete step_times and time again with nothing else on them"
        )
    notes = _notes(ruleset, devices)
    if plain is not None and (longer := _ratios({s.label: s.search_s for s in sides}, plain)):
        notes.append(f"equal trials are not equal compute; seconds of the search in units of {plain.label}'s: {longer}")
    elif unit == "seconds" and any(s.trials for s in sides):
        notes.append("the budget of seconds is for the final runs; trials are equal in number and in steps")
    if unit == "steps" and plain is not None and (slow := _ratios({s.label: s.step_s for s in sides}, plain)):
        text = f"equal steps are not equal compute; seconds per step in units of {plain.label}'s: {slow}"
        if any(s.label == control_label(plain.label, "equal seconds") and s.runs for s in sides):
            notes.append(f"{text}. The plain student that trained as long as the slowest is in the table")
        else:
            unfair.append(f"{text}, and no plain student was trained for as long (budget: {{longer: true}})")
    return [*(Finding(True, text) for text in unfair), *(Finding(False, text) for text in notes)]


_WHY = {
    "none": "without the plain student no gain can be stated",
    "kd": "a gain over the plain student may be that of any distillation",
}


def _seeds(sides: list[Side], seeds: int) -> list[str]:
    found = []
    if seeds < FEWEST_SEEDS:
        found.append(
            f"{seeds} {'seed' if seeds == 1 else 'seeds'}: {FEWEST_SEEDS} or more are needed to tell a gain from luck"
        )
    for side in sides:
        if side.failed:
            found.append(
                f"{side.label}: {side.failed} of {seeds} runs failed; they are no number but a loss, and {side.label} "
                "can have no gain beyond noise"
            )
        if side.missing:
            found.append(f"{side.label}: {side.missing} of {seeds} runs are not there; its mean is over fewer seeds")
    return found


def _trials(sides: list[Side], ruleset: str) -> list[str]:
    counts = {side.label: side.trials for side in sides if side.trials is not None}
    if ruleset == "published" or len(set(counts.values())) < 2:
        return []
    few, many = min(counts, key=lambda x: counts[x] or 0), max(counts, key=lambda x: counts[x] or 0)
    return [f"unequal search: {counts[many]} trials for {many}, {counts[few]} for {few}"]


def _ratios(seconds: Mapping[str, float | None], plain: Side) -> str:
    """What took longer than the plain student, by how much."""
    unit = seconds[plain.label]
    ratios = {label: each / unit for label, each in seconds.items() if each and unit}
    return ", ".join(f"{label} {ratio:.2f}" for label, ratio in ratios.items() if ratio > UNEQUAL_TIME)


def _unequal(sides: list[Side], plain: Side) -> str:
    control = control_label(plain.label, "equal steps")  # it is to take less
    ratios = {s.label: s.seconds / plain.seconds for s in sides if s.seconds and plain.seconds and s.label != control}
    return ", ".join(
        f"{label} {ratio:.2f}" for label, ratio in ratios.items() if not 1 / UNEQUAL_TIME <= ratio <= UNEQUAL_TIME
    )


def _notes(ruleset: str, devices: tuple[str, ...]) -> list[str]:
    notes = []
    if ruleset == "published":
        notes.append("nothing is tuned here: every method has its authors' values, which were made for other data")
    if ruleset == "searched":
        notes.append("exploratory: methods were searched by an algorithm, each with what it spent")
    if len(devices) > 1:
        kinds = ", ".join(devices)
        notes.append(
            f"runs on different devices ({kinds}): their seconds are not comparable, and they round differently"
        )
    return notes
