"""Exports a trained network: writes the file, judges it through its own runtime, keeps it and its row."""

import hashlib
import importlib.metadata
import json
import os
import shutil
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import datetime, timezone
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch

from harness.datasets import Data
from harness.deployment.deployed import Runner
from harness.deployment.graphs import (
    Graph,
    as_bytes,
    given_to,
    load_onnx,
    load_program,
    require_free,
    write_onnx,
    write_program,
)
from harness.deployment.judge import SPLIT, judged, latency, on_threads, require_equal
from harness.deployment.quantise import quantise_onnx
from harness.deployment.source import Form, Source
from harness.deployment.weight_files import load_safetensors, load_smp, write_safetensors, write_smp
from harness.files import sha256, write_atomic
from harness.results.exports import files_folder, write_export
from harness.results.provenance import code_version
from harness.training.build import for_inputs, load_data
from harness.training.cost import device_name
from harness.training.student import found_run, require_current

DESCRIPTION = "export.json"


@dataclass(frozen=True)
class Weights:
    """A target that is weights for another library.

    Attributes:
        write: writes them into a folder.
        load: what the library makes of the folder.
        packages: whose versions matter.
    """

    write: Callable[[Source, Path], None]
    load: Callable[[Source, Path], Runner]
    packages: tuple[str, ...]


@dataclass(frozen=True)
class Graphs:
    """A target that is a graph.

    Attributes:
        write: writes it into a folder.
        load: what its runtime, with so many threads, makes of the folder.
        packages: whose versions matter.
        quantise: replaces the file in a folder by its int8 form; None: there is none.
    """

    write: Callable[[Source, Form, Path], None]
    load: Callable[[Path, int], Graph]
    packages: tuple[str, ...]
    quantise: Callable[[Source, Data, Form, Path], None] | None = None


TARGETS: dict[str, Weights | Graphs] = {
    "safetensors": Weights(write_safetensors, load_safetensors, ("safetensors", "torch")),
    "smp": Weights(write_smp, load_smp, ("segmentation-models-pytorch", "timm", "torch")),
    "torch-export": Graphs(write_program, load_program, ("torch",)),
    "onnx": Graphs(write_onnx, load_onnx, ("onnx", "onnxscript", "onnxruntime", "torch"), quantise_onnx),
}


def export(
    run: str | Mapping[str, Any],
    to: str,
    results: str | Path = "results",
    output: str | Path | None = None,
    *,
    size_hw: tuple[int, int] | None = None,
    batch: int | None = None,
    preprocessing: bool = False,
    int8: bool = False,
    calibrate: int = 64,
    limit: int | None = None,
    threads: int = 1,
    root: str | Path | None = None,
) -> dict[str, Any]:
    """Write the trained network of a finished run as a file that others load, and judge the file by its own runtime.

    Args:
        run: as for `harness.load_student`.
        to: "safetensors", "smp", "torch-export" or "onnx".
        results: folder of all results, or the results folder of one experiment.
        output: the folder for the files; by default below the experiment's results folder.
        size_hw: height and width of a graph's images; None: any whose sides are multiples of the network's `multiple`.
        batch: images at a time of a graph; None: any number.
        preprocessing: the graph takes RGB bytes (N, H, W, 3) and gives labels (N, H, W), in place of normalised images
            and class scores.
        int8: quantise the graph after training ("onnx").
        calibrate: number of train images by which it is quantised.
        limit: the most images of val that the file is judged on; None: all.
        threads: of the timing.
        root: the dataset's folder, if it has moved since the run.

    Returns:
        The export's row: the columns of `harness.results.exports`.

    Raises:
        ValueError: no such run, another target, a package is missing, the network cannot be exported in this form, or
            the file does not say what the network says.

    Example:
        >>> import harness
        >>> row = harness.export("kd/0", "onnx", "results/quickstart", "kd-onnx")  # doctest: +SKIP
        >>> row["agreement"] > 0.999  # doctest: +SKIP
        True
    """
    directory, row = found_run(run, Path(results))
    form = Form(size_hw, batch, preprocessing, calibrate if int8 else None)
    place = None if root is None else Path(root)
    return export_row(directory, row, to, None if output is None else Path(output), form, limit, threads, place)


def export_row(
    directory: Path,
    row: Mapping[str, Any],
    target: str,
    to: Path | None = None,
    form: Form | None = None,
    limit: int | None = None,
    threads: int = 1,
    root: Path | None = None,
) -> dict[str, Any]:
    """As `export`, of a row in an experiment's results folder.

    The file is written beside its place, loaded by its own runtime, evaluated on the run's val split beside the network
    as it was trained, timed, and only then put in its place.

    Args:
        directory: results folder of the experiment.
        row: the complete row of the run.
        target: a key of `TARGETS`.
        to: the folder for the files, which is replaced if it is an export; by default below `directory`.
        form: of a graph.
        limit: the most images that it is judged on; None: all of val.
        threads: of the timing.
        root: the dataset's folder, if it has moved since the run.

    Raises:
        ValueError: a target or form that is not offered, a package is missing, the network cannot be exported in this
            form, or the file does not say what the network says.
    """
    form = form or Form()
    kind = _target(target, form, limit, threads)
    source = Source.of(directory, row)
    to = to or place_of(files_folder(directory), row["run_id"], target, form)
    _require_own(to)
    run = source.run
    place = str(root.absolute()) if root is not None else run.data.root
    data = for_inputs(load_data(run.data.model_copy(update={"root": place})), run.train.normalize, run.network)
    require_current(directory, row, data.info.content_hash)
    to.parent.mkdir(parents=True, exist_ok=True)
    hidden = Path(tempfile.mkdtemp(prefix=f".{to.name}.", suffix=".tmp", dir=to.parent))
    try:
        found = _written(source, data, target, kind, form, hidden, limit, threads)
        described = source.described() | {"target": target, **_given(form), "judged": _plain(found)}
        lines = ",\n".join(f" {json.dumps(key)}: {json.dumps(value)}" for key, value in described.items())
        write_atomic(hidden / DESCRIPTION, f"{{\n{lines}\n}}\n")
        if to.exists():
            shutil.rmtree(to)
        hidden.chmod(0o755)
        os.replace(hidden, to)
    except BaseException:
        shutil.rmtree(hidden, ignore_errors=True)
        raise
    write_export(directory, found)
    return found


def place_of(files: Path, run_id: str, target: str, form: Form) -> Path:
    """A folder of its own for each run and form, below that of all exported files."""
    size = "" if form.size_hw is None else f"-{form.size_hw[0]}x{form.size_hw[1]}"
    batch = "" if form.batch is None else f"-batch{form.batch}"
    rest = f"{'-bytes' if form.preprocessing else ''}{'-int8' if form.calibration is not None else ''}"
    return files / f"{run_id}-{target}{size}{batch}{rest}"


def _written(
    source: Source,
    data: Data,
    target: str,
    kind: Weights | Graphs,
    form: Form,
    folder: Path,
    limit: int | None,
    threads: int,
) -> dict[str, Any]:
    """Write, judge and time; returns the row."""
    if isinstance(kind, Weights):
        kind.write(source, folder)
        call = run = kind.load(source, folder)
    else:
        kind.write(source, form, folder)
        require_free(kind.load(folder, threads), source, form, f"--to {target}")
        if form.calibration is not None and kind.quantise is not None:
            kind.quantise(source, data, form, folder)
        call = kind.load(folder, threads)
        run = given_to(call, source, form)
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    contents = {path.relative_to(folder).as_posix(): sha256(path) for path in files}
    with on_threads(threads), torch.no_grad():
        scores = judged(source, data, run, limit, compares=not form.preprocessing)
        if form.calibration is None:
            require_equal(scores, target)
        side = source.network.multiple
        image = data.val[0][0]
        size = form.size_hw or (-(-image.shape[0] // side) * side, -(-image.shape[1] // side) * side)
        normalised = torch.zeros(1, 3, *size)
        example = as_bytes(normalised, source.info) if form.preprocessing else normalised
        example = example.expand(form.batch or 1, *example.shape[1:]).contiguous()
        median, slow = latency(lambda: call(example))
        own, _ = latency(lambda: source.network(normalised.expand(form.batch or 1, 3, *size)).full)
    return {
        "run_id": source.row["run_id"],
        "target": target,
        **_given(form),
        "sha256": hashlib.sha256(json.dumps(contents, sort_keys=True).encode()).hexdigest(),
        "size_bytes": sum(path.stat().st_size for path in files),
        "versions": json.dumps({name: importlib.metadata.version(name) for name in kind.packages}, sort_keys=True),
        "code_version": code_version(),
        "exported_at": datetime.now(timezone.utc),
        "split": SPLIT,
        "images": scores.images,
        "miou": scores.miou,
        "student_miou": scores.student_miou,
        "agreement": scores.agreement,
        "largest_difference": scores.largest_difference,
        "device": device_name(torch.device("cpu")),
        "threads": threads,
        "latency_hw": list(size),
        "latency_ms": median,
        "latency_ms_p90": slow,
        "student_latency_ms": own,
    }


def _given(form: Form) -> dict[str, Any]:
    size = None if form.size_hw is None else list(form.size_hw)
    return {
        "size_hw": size,
        "batch": form.batch,
        "preprocessing": form.preprocessing,
        "calibration": form.calibration,
    }


def _plain(row: Mapping[str, Any]) -> dict[str, Any]:
    """What is said of the file beside it: figures that do not change when it is made again are its content's."""
    return {name: row[name] for name in ("split", "images", "miou", "student_miou", "agreement", "largest_difference")}


def _target(target: str, form: Form, limit: int | None, threads: int) -> Weights | Graphs:
    """The target, if it and the form are offered and its packages are there.

    Raises:
        ValueError: they are not.
    """
    if target not in TARGETS:
        raise ValueError(f"--to {target}: allowed are {', '.join(TARGETS)}")
    numbers = {"limit": limit, "threads": threads, "batch": form.batch, "calibrate": form.calibration}
    for name, value in numbers.items():
        if value is not None and value < 1:
            raise ValueError(f"--{name} {value}: has to be 1 or more")
    kind = TARGETS[target]
    if isinstance(kind, Weights) and form != Form():
        raise ValueError(f"--to {target}: these are weights, without a size, a batch or preprocessing; leave these out")
    if form.calibration is not None and getattr(kind, "quantise", None) is None:
        able = ", ".join(name for name, each in TARGETS.items() if isinstance(each, Graphs) and each.quantise)
        raise ValueError(f"--int8: --to {target} has no quantised form; allowed are {able}")
    missing = [name for name in kind.packages if find_spec(name.replace("-", "_")) is None]
    if missing:
        raise ValueError(
            f"--to {target}: {', '.join(missing)} {'is' if len(missing) == 1 else 'are'} not installed: "
            "pip install 'sstkd-bench[export]'"
        )
    return kind


def _require_own(to: Path) -> None:
    """Check that a folder may be replaced.

    Raises:
        ValueError: it holds something else than an export.
    """
    if to.exists() and not (to.is_dir() and (not any(to.iterdir()) or (to / DESCRIPTION).is_file())):
        raise ValueError(f"-o {to}: is there and holds no export, so that it is not replaced; give another folder")
