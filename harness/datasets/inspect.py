"""The `data` commands: a dataset's description, and a check that a copy of it is complete."""

import inspect
import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from harness.datasets import DATASETS, SOURCES, cache, decode, filedata, outside, owed
from harness.datasets.base import faults
from harness.datasets.filedata import SEVERAL_SIZES, Found, Pair
from harness.datasets.source import OFFICIAL, Source
from harness.datasets.tree import Tree
from harness.experiment.method import dataset_entry
from harness.experiment.spec import Dataset

COMMON = ("dev_fraction", "dev_seed", "short_side")
"""Parameters of every dataset in files; the others are its variant."""


@dataclass
class Findings:
    """Result of a check: table rows for the splits and the classes, notes, and one line per problem."""

    splits: list[list[str]] = field(default_factory=list)
    parts: list[str] = field(default_factory=list)
    classes: list[list[str]] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)


def source_of(name: str, root: Path | None, parameters: dict[str, Any]) -> tuple[Source, dict[str, Any], int | None]:
    """The source of a dataset in files, its variant, and the short side.

    Raises:
        ValueError: the dataset is not stored in files.
    """
    if ":" in name:
        raise ValueError(f"{name} is read by your own code, which no cache can replace; it needs no preparation")
    if name not in SOURCES:
        raise ValueError(f"{name} is made from installed packages and has no files of its own; it needs no preparation")
    filedata.require_ranges(name, *(parameters[key] for key in COMMON))
    # Keys added later are None where they are not given, and are then left out as in earlier caches.
    variant = {key: value for key, value in parameters.items() if key not in COMMON and value is not None}
    return SOURCES[name](root, **variant), variant, parameters["short_side"]


def overview() -> list[list[str]]:
    """One line per dataset: name, classes, pairs of the published splits, description."""
    lines = []
    for name, loader in DATASETS.items():
        first = (inspect.getdoc(inspect.getmodule(loader)) or "").splitlines()[0]
        if name in SOURCES:
            source = SOURCES[name](None)
            counts = [str(source.published.get(split, "")) for split in OFFICIAL]
            lines.append([name, str(len(source.class_names) or ""), *counts, source.title])
        else:
            lines.append([name, "", "", "", first.removeprefix(f"{name}: ")])
    return lines


def describe(name: str, classes: bool) -> str:
    """The full description of a dataset as text."""
    loader = DATASETS[name] if name in DATASETS else outside.imported(name)
    parts = []
    if name in SOURCES:
        source = SOURCES[name](None)
        splits = ", ".join(f"{split} {count:,}" for split, count in source.published.items())
        how = {"group": "whole groups (cities, stretches of film)", "presence": "equal class presence"}
        parts += [
            f"{source.name}: {source.title}\n{source.note}",
            f"published splits: {splits or 'your own'}; dev is cut from train by {how[source.cut]}",
            f"licence: {source.licence}",
            f"how to get it: {source.obtain}",
            f"layout:\n{source.layout}",
        ]
        if classes and source.class_names:
            width = max(map(len, source.class_names))
            lines = [
                f"  {i:3} {label:{width}}  #{r:02x}{g:02x}{b:02x}"
                for i, (label, (r, g, b)) in enumerate(zip(source.class_names, source.palette, strict=True))
            ]
            parts.append("\n".join(["classes:", *lines]))
    else:
        parts.append(inspect.getdoc(loader if ":" in name else inspect.getmodule(loader)) or name)
    fields = dataset_entry(name).parameters.model_fields
    lines = [f"  {key}: {value.default!r}" for key, value in fields.items()]
    parts.append("\n".join(["parameters (data.parameters):", *lines]))
    return "\n\n".join(parts)


def left_out(data: Dataset) -> list[str]:
    """Notes on files that lie where the dataset does not look, a line for each kind; no file is read.

    Raises:
        ValueError: the folder cannot be listed.
    """
    if data.name not in SOURCES or data.root is None or not Path(data.root).is_dir() or cache.is_cache(Path(data.root)):
        return []
    source, variant, _ = source_of(data.name, Path(data.root), data.parameters)
    return source.listing(Tree(Path(data.root)), **variant).notes


def look(name: str, root: Path | None, parameters: dict[str, Any], full: bool = False) -> Found:
    """Judge a dataset in files; as `harness.datasets.filedata.look`."""
    source, variant, _ = source_of(name, root, parameters)
    fraction, seed, short_side = (parameters[key] for key in COMMON)
    return filedata.look(source, root, variant, fraction, seed, short_side, full)


def check(name: str, root: Path | None, parameters: dict[str, Any]) -> Findings:
    """Read a complete dataset from its folder or its prepared cache; the rules are those of every run.

    Raises:
        ValueError: the folder does not exist, or none is given for a dataset in files.
    """
    if name not in SOURCES:
        return _check_made(name, root, parameters)
    if root is None:
        raise ValueError(f"--root is missing: the folder of {name}, or its prepared cache")
    looked = look(name, root, parameters, full=True)
    found = Findings(notes=looked.notes, problems=looked.problems)
    _tabulate(source_of(name, root, parameters)[0], looked.pairs, found)
    if looked.unlabelled:
        found.splits.append(["unlabelled", str(len(looked.unlabelled)), "-", "-", "-"])
    return found


def _tabulate(source: Source, stock: dict[str, list[Pair]], found: Findings) -> None:
    totals = {}
    for split, pairs in stock.items():
        published = source.published.get(split)
        sizes = np.array([pair.entry.size_hw for pair in pairs]).reshape(-1, 2)
        spans = ["-" if not len(sizes) else _span(sizes[:, axis]) for axis in (0, 1)]
        found.splits.append([split, str(len(pairs)), "-" if published is None else str(published), *spans])
        if published is not None and len(pairs) != published:
            found.notes.append(f"{split} has {len(pairs)} pairs, the published release {published}")
        if pairs:
            totals[split] = np.stack([pair.entry.counts for pair in pairs])
    found.parts = list(totals)
    for i, label in enumerate((*source.class_names, "(ignored)")):
        line = [label]
        for split, counts in totals.items():
            share = 100 * counts[:, i].sum() / max(1, counts.sum())
            line += [f"{counts[:, i].sum():,}", f"{share:.2f}", f"{(counts[:, i] > 0).sum():,}"]
            if i < len(source.class_names) and not counts[:, i].any():
                found.notes.append(f"{split} has no pixel of {label}")
        found.classes.append(line)


def _span(values: Any) -> str:
    low, high = int(values.min()), int(values.max())
    return str(low) if low == high else f"{low}..{high}"


def _check_made(name: str, root: Path | None, parameters: dict[str, Any]) -> Findings:
    """Generate a dataset that comes from packages, and count its pixels."""
    fields = dataset_entry(name).parameters.model_validate_json(json.dumps(parameters))
    data = outside.load(name, root, dict(fields)) if ":" in name else DATASETS[name](root, **dict(fields))
    found = Findings(parts=["train", "dev", "val"], problems=faults(data, name))
    if found.problems:
        return found
    if ":" in name:
        found.problems += [f"{name}: {problem}" for problem in owed.problems(data)]
        if not getattr(data.train, "one_size", True):
            found.notes.append(SEVERAL_SIZES)
    counts = {}
    for part in found.parts:
        split = getattr(data, part)
        counts[part] = np.stack([decode.value_counts(split[i][1]) for i in range(len(split))])
        sizes = np.array([split[i][1].shape for i in range(len(split))])
        found.splits.append([part, str(len(split)), "-", *(_span(sizes[:, axis]) for axis in (0, 1))])
    values = [*range(data.info.num_classes), data.info.ignore_index]
    for value, label in zip(values, (*data.info.class_names, "(ignored)"), strict=True):
        line = [label]
        for part in found.parts:
            own = counts[part][:, value]
            line += [f"{own.sum():,}", f"{100 * own.sum() / counts[part].sum():.2f}", f"{(own > 0).sum():,}"]
        found.classes.append(line)
    for part in ("dev", "val"):
        floor = getattr(data.info, f"floor_{part}_miou")
        if floor is not None:
            found.notes.append(f"a look-up table from a single pixel reaches {100 * floor:.1f} mIoU on {part}")
    return found
