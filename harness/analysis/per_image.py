"""Bootstrap intervals over the images of val, from confusion matrices per image."""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from harness.analysis.lines import BOOTSTRAP_SEED, CONFIDENCE, MethodRow
from harness.analysis.stats import image_bootstrap
from harness.analysis.tables import Block, Table
from harness.analysis.teachers import paired
from harness.metrics import hits_and_unions
from harness.results.paths import per_image_path
from harness.results.per_image import read_per_image

COLUMNS = ("run_id", "per_image_sha256", "absent_policy")
"""Columns of rows that `with_images` needs."""


def with_images(table: Table, directory: str | Path, rows: Any) -> Table:
    """The table with `images` filled in: every method against the baseline, over their common seeds (and teachers).

    Args:
        table: a comparison.
        directory: the experiment's results folder, with `per_image/`.
        rows: `pyarrow.Table` with at least `COLUMNS`, of its runs.

    Raises:
        ValueError: a file is corrupt or does not match its row; names it.
    """
    import pyarrow.compute as pc

    kept = rows.select(list(COLUMNS)).filter(pc.is_valid(rows["per_image_sha256"]))
    known = {r["run_id"]: r for r in kept.to_pylist()}
    if not known:
        return table
    return replace(table, blocks=tuple(replace(b, images=_of_block(b, Path(directory), known)) for b in table.blocks))


def _of_block(block: Block, directory: Path, known: Mapping[str, Mapping[str, Any]]) -> tuple[str, ...]:
    baseline = block.baseline
    if baseline is None:
        return ()
    counted: dict[str, NDArray[np.float64]] = {}
    texts = [_of_line(line, baseline, directory, known, counted) for line in block.methods if line is not baseline]
    return tuple(text for text in texts if text)


def _of_line(
    line: MethodRow,
    baseline: MethodRow,
    directory: Path,
    known: Mapping[str, Mapping[str, Any]],
    counted: dict[str, NDArray[np.float64]],
) -> str:
    pairs = [pair for pair in paired(line.run_ids, baseline.run_ids) if all(run in known for run in pair)]
    if not pairs:
        return ""
    runs = [run for pair in pairs for run in pair]
    if absent := [run for run in runs if not per_image_path(directory, run).is_file()]:
        return f"{line.label}: per-image matrices are missing ({per_image_path(directory, absent[0])})"
    for run in runs:
        if run not in counted:
            matrices = read_per_image(per_image_path(directory, run), known[run]["per_image_sha256"])
            counted[run] = hits_and_unions(matrices)
    a, b = (np.stack([counted[pair[side]] for pair in pairs]) for side in (0, 1))
    rng = np.random.default_rng(BOOTSTRAP_SEED)
    d = image_bootstrap(a, b, rng, CONFIDENCE, absent=known[runs[0]]["absent_policy"])
    width = "" if d.low is None or d.high is None else f" [{100 * d.low:+.2f}, {100 * d.high:+.2f}]"
    return f"{line.label}: {100 * d.mean:+.2f}{width} ({d.n} images, {len(pairs)} pairs of runs)"
