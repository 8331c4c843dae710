"""Names of a table's lines where there is little room: what most lines of a method have in common is said once."""

import re
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import replace

from harness.analysis.labels import Label
from harness.analysis.sheets import Remark, Section, Sheet

NAMES = "names"
"""Of the section that says what short names stand for."""


def with_short_names(sheet: Sheet, most: int, limit: int) -> Sheet:
    """The table with short names in its first column and in its remarks, and a section that says what they stand for.

    Args:
        sheet: the table.
        most: letters up to which names are left as they are.
        limit: letters beyond which names that are still too long are cut, in the first column only.
    """
    names = [str(row[0]) for row in sheet.rows]
    if max(map(len, names), default=0) <= most:
        return sheet
    short, said = _without_common(names, most)
    rows = []
    for i, (name, row) in enumerate(zip(names, sheet.rows, strict=True)):
        text, mark = short[name], f"[{i + 1}] "
        if len(text) > limit:
            said.append(f"{mark}{text}")
            text = f"{mark}{text[: max(1, limit - len(mark) - 1)]}…"
        rows.append((replace(row[0], text=text, missing=""), *row[1:]))
    sections = [_renamed(section, short) for section in sheet.sections]
    own = Section(NAMES, "In names:", tuple(map(Remark, said)))
    above, below = ([section for section in sections if section.above is there] for there in (True, False))
    return replace(sheet, rows=tuple(rows), sections=(*above, own, *below))


def _without_common(names: Sequence[str], most: int) -> tuple[dict[str, str], list[str]]:
    """By name, the name without the values that most lines with the same parameters have, and what these are.

    Names of which none with the same parameters is too long stay as they are.
    """
    families: dict[tuple[str, tuple[str, ...]], list[str]] = defaultdict(list)
    parameters = {name: _parameters(name) for name in names}
    for name, values in parameters.items():
        if values:
            families[Label.read(name).method, tuple(values)].append(name)
    short, said = {name: name for name in names}, []
    for (method, keys), members in families.items():
        if len(members) == 1 or max(map(len, members)) <= most:
            continue
        usual = {key: Counter(parameters[name][key] for name in members).most_common(1)[0][0] for key in keys}
        made = {}
        for name in members:
            own = [f"{key}={value}" for key, value in parameters[name].items() if value != usual[key]]
            made[name] = f"{method}({', '.join(['…', *own])})"
        others = {text for name, text in short.items() if name not in made}
        if others.isdisjoint(made.values()):
            short |= made
            said.append(
                f"{method}(…) has {', '.join(f'{key}={value}' for key, value in usual.items())} where not named"
            )
    return short, said


def _parameters(name: str) -> dict[str, str]:
    """A name's parameters; empty where it has none, or what is in its brackets are none."""
    label = Label.read(name)
    parts = [part.partition("=") for part in label.parameters]
    return {key: value for key, _, value in parts} if str(label) == name and all(sign for _, sign, _ in parts) else {}


def _renamed(section: Section, short: Mapping[str, str]) -> Section:
    """A section whose texts have the short names."""
    changed = sorted((name for name, brief in short.items() if name != brief), key=len, reverse=True)
    if not changed:
        return section
    # A method's name may end as another's does: dkd(...), kd(...).
    known = re.compile(rf"(?<![\w.:-])(?:{'|'.join(map(re.escape, changed))})")

    def of(text: str) -> str:
        return known.sub(lambda found: short[found[0]], text)

    remarks = section.remarks
    if remarks is not None:
        remarks = tuple(replace(remark, text=of(remark.text)) for remark in remarks)
    return replace(section, head=of(section.head), remarks=remarks)
