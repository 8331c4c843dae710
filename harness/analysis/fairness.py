"""What a comparison compares, and what makes it unfair: from the experiment before it runs, from its table afterwards.

Rows that must not be compared at all (another recipe, budget, teacher, data, protocol) are refused by
`harness.analysis.comparable`. The findings here weaken a comparison, or have to be known to read it.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from harness.analysis.crossing import FEWEST_TEACHERS
from harness.analysis.labels import REFERENCES, Label, references
from harness.analysis.lines import FEWEST_SEEDS
from harness.analysis.power import phrase
from harness.analysis.sheets import Remark
from harness.analysis.tables import Block
from harness.experiment import controls, rules

if TYPE_CHECKING:
    from harness.experiment.spec import Experiment, PairSpec

UNEQUAL_TIME = 1.1  # times the seconds of the baseline
_SHARED = "Equal for all: recipe, budget, data and its order, teacher, and the student's initial weights of each seed."

_CROSSED = _SHARED.replace("teacher,", "teachers,")


@dataclass(frozen=True)
class Side:
    """One method of a comparison.

    Attributes:
        label: of its line.
        runs: how many results it has, or will have.
        reference: "none" or "kd" where it is one of `REFERENCES`; else empty.
        expected: how many it should have.
        failed, missing: how many of its runs failed, or are not there.
        lacks: the control that is missing: this method without its own terms.
        chosen: its hyper-parameters at defaults that this project chose on this dataset.
        trials, search_s: of its search, and the seconds they took; None without one, or where they were not measured.
        step_s: seconds of a training step; None where they were not measured.
        seconds: of all training steps; None where they were not measured.
        miou: mean val mIoU in percent; None without a result.
    """

    label: Label
    runs: int
    expected: int
    reference: str = ""
    failed: int = 0
    missing: int = 0
    lacks: str = ""
    chosen: tuple[str, ...] = ()
    trials: int | None = None
    search_s: float | None = None
    step_s: float | None = None
    seconds: float | None = None
    miou: float | None = None


def of_block(block: Block) -> dict[str, Any]:
    """The fields `compared` and `findings` of a block that is otherwise complete."""
    sides = [
        Side(
            label=x.name,
            runs=len(x.run_ids),
            expected=x.expected,
            reference=x.reference,
            failed=x.failed,
            missing=x.missing,
            lacks=x.lacks,
            chosen=x.chosen,
            trials=x.search_trials,
            search_s=x.search_seconds,
            step_s=x.step_s,
            seconds=None if x.step_s is None or x.steps is None else x.step_s * x.steps,
            miou=None if x.miou is None else x.miou.mean,
        )
        for x in block.methods
        if x.missing < x.expected  # a reference that the experiment lacks has no missing runs
    ]
    teachers = len(block.teachers)
    seeds = max((x.expected for x in block.methods), default=0) // teachers
    absent = [x.label for x in block.methods if x.missing == x.expected and not x.reference]
    findings = judged(
        sides,
        seeds,
        block.ruleset,
        block.budget_unit,
        teacher_miou=block.of_teachers(),
        floor=block.floor,
        devices=tuple(block.devices.split(", ")),
        teachers=teachers,
    )
    if absent:
        findings.insert(0, Remark(f"not run: {', '.join(absent)}", "unfair"))
    if power := phrase(block):
        findings.append(Remark(power, "note"))
    compared = sentence([x.label for x in block.methods], seeds, block.where, block.comparisons, teachers)
    return {"compared": compared, "findings": tuple(findings)}


def of_experiment(
    experiment: "Experiment", step_seconds: Mapping[tuple[str, str, str], float] | None = None
) -> dict[str, tuple[str, list[Remark]]]:
    """What will be compared, and what is unfair about it already, by pair.

    Args:
        experiment: any.
        step_seconds: by (pair, role, method label), as `harness.training.estimate.step_seconds` measures them.
    """
    search, out = experiment.search, {}
    labels = [Label.read(text) for text in rules.labels(experiment)]
    searched = experiment.protocol.ruleset != "published"
    chosen = {method.label: method.chosen_on(experiment.data.name, searched) for method in experiment.methods}
    named, lacking = references(labels), controls.lacking(experiment.methods)
    for pair in experiment.pairs:
        teachers, seeds = len(pair.teacher.all_seeds), len(experiment.seeds)
        sides = [
            Side(
                label=label,
                runs=(runs := seeds if label.method == rules.PLAIN else seeds * teachers),
                expected=runs,
                lacks=lacking.get(str(label), ""),
                chosen=chosen.get(str(label), ()),
                reference=label.method if label == named.get(label.method) else "",
                trials=None if search is None else search.trials,
                step_s=(step_seconds or {}).get((pair.name, "student", str(label))),
            )
            for label in labels
        ]
        findings = judged(sides, seeds, experiment.protocol.ruleset, experiment.budget.unit, teachers=teachers)
        findings += _warm_up(experiment, pair)
        comparisons = sum(label != reference for reference in named.values() for label in labels)
        # kd against none and none against kd are one comparison.
        comparisons -= len(named) == len(REFERENCES)
        comparisons += len(controls.own(experiment.methods, [str(label) for label in named.values()]))
        where = f"{pair.name} on {experiment.data.name}"
        out[pair.name] = (sentence(list(map(str, labels)), seeds, where, comparisons, teachers), findings)
    return out


def _warm_up(experiment: "Experiment", pair: "PairSpec") -> list[Remark]:
    """Runs whose learning rate does not reach what the file says."""
    steps = {"students": experiment.train.steps, "the teacher": pair.teacher.steps or experiment.train.steps}
    if pair.teacher.checkpoint is not None:
        del steps["the teacher"]
    last = experiment.train.schedule.warmup_steps
    short = [f"{who} ({count} steps)" for who, count in steps.items() if count <= last]
    if not short:
        return []
    text = f"the warm-up (train.schedule.warmup_steps: {last}) ends after {' and '.join(short)}"
    return [Remark(f"{text}: their learning rate does not reach train.optimizer.lr", "note")]


def sentence(labels: list[str], seeds: int, where: str, comparisons: int, teachers: int = 1) -> str:
    """What is compared with what, in one phrase."""
    named, over = ", ".join(labels), "paired over" if teachers == 1 else f"crossed over {teachers} teachers and"
    return (
        f"Compared on {where}: {named}, each against {' and '.join(REFERENCES)}, {over} {seeds} "
        f"{'seed' if seeds == 1 else 'seeds'}; {comparisons} {'comparison' if comparisons == 1 else 'comparisons'}, "
        f"corrected together. {_SHARED if teachers == 1 else _CROSSED}"
    )


def judged(
    sides: list[Side],
    seeds: int,
    ruleset: str,
    unit: str,
    teacher_miou: float | None = None,
    floor: float | None = None,
    devices: tuple[str, ...] = (),
    teachers: int = 1,
) -> list[Remark]:
    """What makes a comparison unfair, then what else must be known of it.

    Args:
        sides: its methods.
        seeds: number of student seeds.
        ruleset: of the protocol.
        unit: of the budget, "steps" or "seconds".
        teacher_miou: val mIoU in percent.
        floor: mIoU of the single-pixel baseline on val, in percent.
        devices: on which the runs ran, that of most results first.
        teachers: number of teachers.
    """
    baseline = next((s for s in sides if s.reference == "none"), None)
    unfair = [*_seeds(sides, seeds), *_trials(sides, ruleset)]
    if 1 < teachers < FEWEST_TEACHERS:
        unfair.insert(0, f"{teachers} teachers: {FEWEST_TEACHERS} or more are needed for a claim about a method")
    present = {s.reference for s in sides}
    unfair += [f"the control {name} is missing: {_WHY[name]}" for name in REFERENCES if name not in present]
    unfair += [*_controls(sides), *_chosen(sides, ruleset)]
    notes = _notes(ruleset, devices)
    if baseline is not None:
        unfair += _levels(baseline, teacher_miou, floor)
        more_unfair, more_notes = _times(sides, baseline, unit)
        unfair, notes = unfair + more_unfair, notes + more_notes
    return [*(Remark(text, "unfair") for text in unfair), *(Remark(text, "note") for text in notes)]


def _controls(sides: list[Side]) -> list[str]:
    """Methods whose own terms cannot be told from their response term."""
    missing: dict[str, list[str]] = {}
    for side in sides:
        if side.lacks:
            missing.setdefault(side.lacks, []).append(str(side.label))
    if not missing:
        return []
    each = "; ".join(f"{control} for {', '.join(names)}" for control, names in missing.items())
    return [
        f"response terms are not there by themselves ({each}): what the methods' own terms add is not told from them "
        "(they are run unless controls: false is given)"
    ]


def _chosen(sides: list[Side], ruleset: str) -> list[str]:
    """Methods that were tuned where they are compared."""
    found: dict[str, list[str]] = {}
    for side in sides:
        if side.chosen:
            found.setdefault(", ".join(side.chosen), []).append(str(side.label))
    what = "defaults" if ruleset == "published" else "defaults, where the search begins,"
    return [
        f"{', '.join(labels)}: the {what} of {names} were chosen by results on this very dataset; "
        "another one shows whether a gain is the method's"
        for names, labels in found.items()
    ]


def _levels(baseline: Side, teacher_miou: float | None, floor: float | None) -> list[str]:
    """Whether there is anything to be learned, and anybody to learn it from."""
    found: list[str] = []
    if baseline.miou is None:
        return found
    if floor is not None and baseline.miou <= floor:
        found.append(
            f"the student without distillation ({baseline.miou:.2f}) is no better than the single-pixel baseline "
            f"({floor:.2f}): it has learned nothing that a gain could be measured against"
        )
    if teacher_miou is not None and teacher_miou <= baseline.miou:
        found.append(
            f"the teacher ({teacher_miou:.2f}) is no better than the student without distillation "
            f"({baseline.miou:.2f}): it may have nothing to teach"
        )
    return found


def _times(sides: list[Side], baseline: Side, unit: str) -> tuple[list[str], list[str]]:
    """What is unfair, and what else is to be known, of the time that methods took."""
    unfair, notes, times = [], [], f"relative to {baseline.label}"
    if unit == "seconds" and (off := _unequal(sides, baseline)):
        unfair.append(
            f"training times are not equal; {times}: {off}. The load on the workers differed between timing and "
            "training: delete step_times and time again while nothing else runs on them"
        )
    if longer := _ratios({s.label: s.search_s for s in sides}, baseline):
        notes.append(f"equal trials are not equal compute; seconds of the search {times}: {longer}")
    elif unit == "seconds" and any(s.trials for s in sides):
        notes.append("the budget of seconds holds for the final runs; trials are equal in number and in steps")
    if unit == "steps" and (slow := _ratios({s.label: s.step_s for s in sides}, baseline)):
        text = f"equal steps are not equal compute; seconds per step {times}: {slow}"
        if any(s.label == Label(baseline.label.method, control="equal seconds") and s.runs for s in sides):
            notes.append(f"{text}. The table has a student without distillation that trained as long as the slowest")
        else:
            unfair.append(
                f"{text}, and no student without distillation was trained for as long (budget: {{longer: true}})"
            )
    return unfair, notes


_WHY = {
    "none": "without the student without distillation no gain can be stated",
    "kd": "a gain over the student without distillation may be that of any distillation",
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
                f"{side.label}: {side.failed} of {side.expected} runs failed; they count as lost, so no gain of "
                f"{side.label} is significant"
            )
        if side.missing:
            found.append(
                f"{side.label}: {side.missing} of {side.expected} runs are missing; its mean is over fewer seeds"
            )
    return found


def _trials(sides: list[Side], ruleset: str) -> list[str]:
    counts = {side.label: side.trials for side in sides if side.trials is not None}
    if ruleset == "published" or len(set(counts.values())) < 2:
        return []
    few, many = min(counts, key=lambda x: counts[x] or 0), max(counts, key=lambda x: counts[x] or 0)
    return [f"unequal search: {counts[many]} trials for {many}, {counts[few]} for {few}"]


def _ratios(seconds: Mapping[Label, float | None], baseline: Side) -> str:
    """What took longer than the baseline, by how much."""
    unit = seconds[baseline.label]
    ratios = {label: each / unit for label, each in seconds.items() if each and unit}
    return ", ".join(f"{label} {ratio:.2f}" for label, ratio in ratios.items() if ratio > UNEQUAL_TIME)


def _unequal(sides: list[Side], baseline: Side) -> str:
    """What took another time than the baseline; but for the control that is to take less."""
    ratios = {
        s.label: s.seconds / baseline.seconds
        for s in sides
        if s.seconds and baseline.seconds and s.label.control != "equal steps"
    }
    return ", ".join(
        f"{label} {ratio:.2f}" for label, ratio in ratios.items() if not 1 / UNEQUAL_TIME <= ratio <= UNEQUAL_TIME
    )


def _notes(ruleset: str, devices: tuple[str, ...]) -> list[str]:
    notes = []
    if ruleset == "published":
        notes.append(
            "nothing is tuned here: every method has its defaults, chosen by its authors for other data unless it is "
            "said otherwise above or under the table"
        )
    if ruleset == "searched":
        notes.append("exploratory: hyper-parameters were searched by an algorithm, each method with its own effort")
    if len(devices) > 1:
        kinds = ", ".join(devices)
        notes.append(
            f"runs on different devices ({kinds}): rounding differs; times and memory are those on {devices[0]} alone"
        )
    return notes
