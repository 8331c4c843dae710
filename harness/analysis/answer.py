"""What a block answers: a sentence, the differences behind it, and which value is the best.

It uses the comparisons of `harness.analysis.families`, which decide. Only `kd` has one with the control of longer
training; of the others the means are compared, and are called so.
"""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from harness.analysis.crossing import FEWEST_TEACHERS
from harness.analysis.lines import FEWEST_SEEDS, Comparison, MethodRow

if TYPE_CHECKING:
    from harness.analysis.tables import Block

LONGER = "equal seconds"
"""What the control of longer training has equal to the slowest method."""
_NAMED = 6  # methods that a sentence names; of more it says how many there are
_SAID = ("ahead", "behind", "open")
_UNSAID = {
    "lost": "failed runs",
    "failed": "failed runs",
    "few": "too few runs",
    "equal": "no spread between seeds",
    "unpaired": "no seed in common",
    "none": "no result",
}


def answer(block: "Block") -> str:
    """One sentence: which methods are significantly ahead of the student without distillation, with the same budget
    and when it trains for longer; or why that cannot be said."""
    lines = distilled(block)
    found = {line.label: verdict(line, line.vs_none) for line in lines}
    whom = f"for teachers like these {len(block.teachers)}" if block.others else "for this teacher"
    first = f"On {block.pair} and {block.dataset}, {whom}, "
    if not any(each in (*_SAID, "lost") for each in found.values()):
        return f"{first}nothing can be said: {_too_little(block, lines)}."
    parts = [_same_budget(block, found), _longer(block, [x for x in lines if found[x.label] in _SAID]), _unsaid(found)]
    return f"{first}{'; '.join(filter(None, parts))}."


def distilled(block: "Block") -> list[MethodRow]:
    """The lines of methods: all but the student without distillation and its controls. A reference without a run is
    there only because others are compared with it."""
    return [
        x
        for x in block.methods
        if x.reference != "none" and x.name.control is None and not (x.reference and x.missing == x.expected)
    ]


def longer(block: "Block") -> MethodRow | None:
    """The control of longer training; None where there is none."""
    return next((x for x in block.methods if x.name.control == LONGER), None)


def against_longer(block: "Block", line: MethodRow) -> Comparison | None:
    """The block's comparison of a line with the control of longer training: of the references alone."""
    control = longer(block)
    if control is None or not line.reference:
        return None
    found = control.vs_none if line.reference == "none" else control.vs_kd
    return None if found is None else found.reversed


def verdict(line: MethodRow, c: Comparison | None) -> str:
    """What a comparison says: "ahead", "behind" or "open" (the interval holds 0); or why it says nothing: "lost" (runs
    failed that are against it), "few", "equal" (no spread), "unpaired", "failed", "none" (not run)."""
    if line.miou is None:
        return "failed" if line.failed else "none"
    if c is None:
        return "unpaired"
    d = c.difference
    if c.significant:
        return "ahead" if d.mean > 0 else "behind"
    if not c.enough:
        return "failed" if line.failed else "few"
    if d.low is None or d.high is None:
        return "equal"
    return "open" if d.low <= 0 <= d.high else "lost"


def best(block: "Block") -> MethodRow | None:
    """The line with the highest mean on val, where it is significantly ahead of the student without distillation."""
    known = [x for x in block.methods if x.miou is not None]
    top = max(known, key=lambda x: x.miou.mean if x.miou else 0.0, default=None)
    return top if top is not None and verdict(top, top.vs_none) == "ahead" else None


def differences(block: "Block") -> dict[str, dict[str, Comparison]]:
    """By reference and label, in the order of the table, all comparisons with a reference of the block's family that
    has one with a method: "none", "none at equal seconds" where more than `kd` is compared with it, and "kd"."""
    control = longer(block)
    found: dict[str, dict[str, Comparison]] = {}
    for name, of in (("none", "vs_none"), ("kd", "vs_kd")):
        if name not in block.references:
            continue
        lines = [x for x in block.methods if not (name == "kd" and x.reference == "none")]
        there = {x.label: c for x in lines if (c := getattr(x, of)) is not None}
        if there:
            found[block.references[name]] = there
    if control is not None:
        there = {x.label: c for x in distilled(block) if (c := against_longer(block, x)) is not None}
        if len(there) > 1:
            found[control.label] = there
    return found


def by_gain(lines: Sequence[str], gains: Mapping[str, Comparison]) -> list[str]:
    """The lines by their difference, largest first; those without an interval last, as they were."""
    known = {name: c.difference.mean for name, c in gains.items() if c.difference.low is not None}
    return sorted(lines, key=lambda name: -known.get(name, float("-inf")))


def _too_little(block: "Block", lines: Sequence[MethodRow]) -> str:
    """Why nothing can be said of any method."""
    if block.baseline is None or block.baseline.miou is None:
        return "the student without distillation has no result"
    if not any(x.miou for x in lines):
        return "no method has a result"
    known = [x.vs_none for x in lines if x.vs_none is not None]
    if not known:
        return "no method shares a seed with the student without distillation"
    if all(c.enough for c in known):
        return "the seeds show no spread"
    seeds = max(c.difference.n // max(1, c.teachers) for c in known)
    if seeds == 1:
        return "one seed has no interval"
    if seeds < FEWEST_SEEDS:
        return f"a claim needs {FEWEST_SEEDS} seeds, and there are {seeds}"
    return f"a claim needs {FEWEST_TEACHERS} teachers, and there are {max(c.teachers for c in known)}"


def _same_budget(block: "Block", found: Mapping[str, str]) -> str:
    """Who is ahead of, and behind, the student without distillation."""
    student = f"the student without distillation with the same {block.budget_unit}"
    ahead, behind = ([name for name, each in found.items() if each == which] for which in ("ahead", "behind"))
    if ahead:
        text = f"{_names(ahead, found)} {_are(ahead)} significantly ahead of {student}"
        return text + (f", and {_names(behind, found)} {_are(behind)} significantly behind it" if behind else "")
    if len(found) == 1:
        (only,) = found
        return f"{only} is {'significantly behind' if behind else 'not significantly ahead of'} {student}"
    text = f"no method is significantly ahead of {student}"
    return text + (f", and {_names(behind, found)} {_are(behind)} significantly behind it" if behind else "")


def _longer(block: "Block", lines: Sequence[MethodRow]) -> str:
    """How methods compare with longer training; nothing where all have equal seconds, or no method can be compared."""
    if block.budget_unit != "steps":
        return ""
    control = longer(block)
    if control is None or control.missing == control.expected:
        return "the control of longer training was not run"
    if control.miou is None:
        return "the control of longer training has no result: its runs failed"
    if len(control.values) // (len(block.teachers) if control.miou.of else 1) < FEWEST_SEEDS:
        return f"the control of longer training has too few runs (n={control.miou.n})"
    if not lines:
        return ""
    student = "that student trained for as long as the slowest method"
    tested = {x.label: verdict(x, c) for x in lines if (c := against_longer(block, x)) is not None}
    said = {
        "ahead": "is significantly ahead of",
        "behind": "is significantly behind",
        "open": "is not significantly apart from",
    }
    if len(lines) == 1 and (only := tested.get(lines[0].label, "")) in said:
        return f"{lines[0].label} {said[only]} {student}"
    higher = [x.label for x in lines if x.miou is not None and x.miou.mean > control.miou.mean]
    every = len(lines) == len([x for x in distilled(block) if x.miou is not None])  # others' runs are too few
    named = _joined([x.label for x in lines])
    if not higher:
        none = "no method has" if every else f"none of {named} has"
        text = f"{none if len(lines) > 1 else f'{lines[0].label} does not have'} a higher mean than {student}"
    elif len(higher) == len(lines):
        whole = ("every method" if every else f"each of {named}") if len(lines) > 1 else lines[0].label
        text = f"{whole} has a higher mean than {student}"
    else:
        text = f"{_names(higher, [x.label for x in lines])} {_have(higher)} a higher mean than {student}"
    intervals = [f"{name} {said[each]} it" for name, each in tested.items() if each in said]
    if intervals:
        return f"{text} (these are means; by the only interval against it, {' and '.join(intervals)})"
    return f"{text} (these are means; no interval is computed against it)"


def _unsaid(found: Mapping[str, str]) -> str:
    """The methods of which nothing is said, and why."""
    reasons: dict[str, list[str]] = {}
    for name, each in found.items():
        if each in _UNSAID:
            reasons.setdefault(_UNSAID[each], []).append(name)
    texts = [f"{_names(names, found)} ({reason})" for reason, names in reasons.items()]
    return f"nothing is claimed of {_joined(texts)}" if texts else ""


def _names(names: Sequence[str], of: "Sequence[str] | Mapping[str, str]") -> str:
    if len(names) > _NAMED:
        return f"all {len(names)} methods" if len(names) == len(of) else f"{len(names)} of {len(of)} methods"
    return _joined(names)


def _joined(texts: Sequence[str]) -> str:
    return texts[0] if len(texts) == 1 else f"{', '.join(texts[:-1])} and {texts[-1]}"


def _are(names: Sequence[str]) -> str:
    return "is" if len(names) == 1 else "are"


def _have(names: Sequence[str]) -> str:
    return "has" if len(names) == 1 else "have"
