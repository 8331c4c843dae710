"""Which line of a table a row belongs to, what the line is called, and the order of the lines."""

import json
from collections.abc import Sequence
from typing import Any

from harness.analysis.tables import REFERENCES, base
from harness.experiment.recipe import CONTROLS, control_label


def grouped(rows: list[dict[str, Any]], methods: Sequence[str]) -> dict[str, list[dict[str, Any]]]:
    """Rows by the label they are shown under, in the order of the lines."""
    variants: dict[tuple[str, tuple[str, ...]], list[dict[str, Any]]] = {}
    controls: dict[str, list[dict[str, Any]]] = {}
    for row in rows:
        if row["control"] is not None:
            controls.setdefault(control_label(row["method"], row["control"]), []).append(row)
            continue
        parameters = json.loads(row["method_parameters"])
        items = tuple(f"{k}={_compact(v)}" for k, v in sorted(parameters.items()))
        variants.setdefault((row["method"], items), []).append(row)
    groups: dict[str, list[dict[str, Any]]] = {name: [] for name in methods}
    ordered = sorted(variants)
    chosen = {variant: _listed(*variant, methods) for variant in ordered}
    shown = list(chosen.values())
    for method, items in ordered:
        name = chosen[method, items]
        if name is None or shown.count(name) > 1:
            # One name for several parameter sets cannot tell them apart: the parameters in which they differ do.
            others = [set(v[1]) for v in ordered if v[0] == method]
            own = [item for item in items if not all(item in other for other in others)]
            groups.pop(name or "", None)
            name = f"{method}({', '.join(own)})" if own else method
        groups[name] = variants[method, items]
    groups |= controls
    present = {base(name) for name in groups}
    groups |= {name: [] for name in REFERENCES if name not in present}
    places = {name: i for i, name in enumerate(methods)}

    def place(name: str) -> tuple[int, int]:
        kinds = (*REFERENCES, base(name) if _is_control(name) else "")
        first = kinds.index(base(name)) if base(name) in kinds else len(kinds)
        return first, places.get(name, places.get(base(name), len(places)))

    return {name: groups[name] for name in sorted(groups, key=place)}


def _listed(method: str, items: tuple[str, ...], methods: Sequence[str]) -> str | None:
    """The most specific label of `methods` whose parameters (a label names only some) are among the row's."""
    fits = []
    for name in methods:
        inside = name[len(method) :].removeprefix("(").removesuffix(")")
        named = {part for part in inside.split(", ") if part}
        if base(name) == method and named <= set(items):
            fits.append((len(named), name))
    return max(fits)[1] if fits else None


def _compact(value: Any) -> str:
    return json.dumps(value, separators=(",", ":")).replace('"', "")


def _is_control(name: str) -> bool:
    """Whether a line is the plain student with another number of steps ("none at equal seconds")."""
    return name in (control_label(REFERENCES[0], control) for control in CONTROLS)
