"""Exports a trained network: writes the file, judges it through its own runtime, keeps it and its row."""

import dataclasses
import hashlib
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import datetime, timezone
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F

from harness.analysis.comparison import COLUMNS, quick_table
from harness.analysis.tables import Table
from harness.deployment.bench_script import write_bench
from harness.deployment.card import CARD, card_of
from harness.deployment.deployed import Deployed, Runner, padded
from harness.deployment.executorch_program import load_executorch, quantise_executorch, write_executorch
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
from harness.deployment.openvino_model import load_openvino, quantise_openvino, write_openvino
from harness.deployment.place import place_of, put, require_place, written_beside
from harness.deployment.quantise import quantise_onnx
from harness.deployment.source import Form, Source
from harness.deployment.weight_files import load_safetensors, load_smp, write_safetensors, write_smp
from harness.files import sha256, write_atomic
from harness.results import store
from harness.results.exports import files_folder, write_export
from harness.results.provenance import code_version
from harness.training.batches import to_batch
from harness.training.cost import device_name
from harness.training.student import found_run


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
        quantisers: further packages whose versions matter for that.
    """

    write: Callable[[Source, Form, Path], None]
    load: Callable[[Path, int], Graph]
    packages: tuple[str, ...]
    quantise: Callable[[Source, Form, Path], None] | None = None
    quantisers: tuple[str, ...] = ()


_ONNX = ("onnx", "onnxscript", "torch")
TARGETS: dict[str, Weights | Graphs] = {
    "safetensors": Weights(write_safetensors, load_safetensors, ("safetensors", "torch")),
    "smp": Weights(write_smp, load_smp, ("segmentation_models_pytorch", "timm", "torch")),
    "torch-export": Graphs(write_program, load_program, ("torch",)),
    "onnx": Graphs(write_onnx, load_onnx, (*_ONNX, "onnxruntime"), quantise_onnx),
    "openvino": Graphs(write_openvino, load_openvino, (*_ONNX, "openvino"), quantise_openvino, ("nncf",)),
    "executorch": Graphs(write_executorch, load_executorch, ("executorch", "torch"), quantise_executorch, ("torchao",)),
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
    every_layer: bool = False,
    limit: int | None = None,
    threads: int = 1,
    root: str | Path | None = None,
    bench_script: bool = False,
) -> dict[str, Any]:
    """Write the trained network of a finished run as a file that others load, and judge the file by its own runtime.

    Args:
        run: as for `harness.load_student`.
        to: "safetensors", "smp", "torch-export", "onnx", "openvino" or "executorch" (of one size and batch).
        results: folder of all results, or the results folder of one experiment.
        output: the folder for the files; by default below the experiment's results folder.
        size_hw: height and width of a graph's images; None: any whose sides are multiples of the network's `multiple`.
        batch: images at a time of a graph; None: any number.
        preprocessing: the graph takes RGB bytes (N, H, W, 3) and gives labels (N, H, W), in place of normalised images
            and class scores.
        int8: quantise the graph after training ("onnx", "openvino", "executorch").
        calibrate: number of train images by which it is quantised.
        every_layer: quantise the first and the last layers too, which stay otherwise.
        limit: the most images of val that the file is judged on; None: all.
        threads: of the timing.
        root: the dataset's folder, if it has moved since the run.
        bench_script: put a script and images beside the graph, which time it elsewhere ("onnx").

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
    form = Form(size_hw, batch, preprocessing, calibrate if int8 else None, every_layer)
    place = None if root is None else Path(root)
    folder = None if output is None else Path(output)
    return export_row(directory, row, to, folder, form, limit, threads, place, bench_script)


def export_row(
    directory: Path,
    row: Mapping[str, Any],
    target: str,
    to: Path | None = None,
    form: Form | None = None,
    limit: int | None = None,
    threads: int = 1,
    root: Path | None = None,
    bench_script: bool = False,
) -> dict[str, Any]:
    """As `export`, of a row in an experiment's results folder.

    The files are written beside their place, loaded by their own runtime, evaluated beside the network as it was
    trained, timed, and only then put in their place.

    Args:
        directory: results folder of the experiment.
        row: the complete row of the run.
        target: a key of `TARGETS`.
        to: the folder for the files; by default below `directory`. Only an earlier export there is replaced.
        form: of a graph.
        limit: the most images that it is judged on; None: all of val.
        threads: of the timing.
        root: the dataset's folder, if it has moved since the run.
        bench_script: put a script and images beside the graph, which time it elsewhere.

    Raises:
        ValueError: a target or form that is not offered, a package is missing, the network cannot be exported in this
            form, or the file does not say what the network says.
    """
    form = form or Form()
    kind, versions = _target(target, form, limit, threads)
    if bench_script and target != "onnx":
        raise ValueError(f"--bench-script: times a graph by onnxruntime, and belongs to --to onnx; given --to {target}")
    to = require_place(to or place_of(files_folder(directory), row["run_id"], target, form), directory)
    source = Source.of(directory, row, root)
    if form.calibration is not None:
        form = dataclasses.replace(form, calibration=min(form.calibration, len(source.data.train)))
    with written_beside(to) as hidden:
        found = _written(source, target, kind, form, hidden, limit, threads)
        if bench_script:
            write_bench(source, form, load_onnx(hidden, threads), _example(source, form), hidden)
        found |= {"versions": json.dumps(versions, sort_keys=True), "code_version": code_version()}
        write_atomic(hidden / CARD, card_of(source, found, compared))
        said = ("split", "images", "miou", "student_miou", "agreement", "largest_difference")
        description = source.described() | {"target": target, **_given(form)}
        put(hidden, to, description | {"judged": {name: found[name] for name in said}})
    return write_export(directory, found)


def _written(
    source: Source, target: str, kind: Weights | Graphs, form: Form, folder: Path, limit: int | None, threads: int
) -> dict[str, Any]:
    """Write, judge and time; returns columns of the row."""
    if isinstance(kind, Weights):
        kind.write(source, folder)
        call = run = kind.load(source, folder)
    else:
        kind.write(source, form, folder)
        require_free(kind.load(folder, threads), source, form, f"--to {target}")
        if kind.quantise is not None and form.calibration is not None:
            kind.quantise(source, form, folder)
        call = kind.load(folder, threads)
        run = given_to(call, source, form)
    scores = judged(source, run, form, limit)
    if form.calibration is None:
        require_equal(scores, target)
    files = sorted(path for path in folder.iterdir())
    contents = {path.name: sha256(path) for path in files}
    example = _example(source, form)
    network = Deployed(source.network, source.info, form.preprocessing)
    with on_threads(threads):
        taken, own = latency(lambda: call(example)), latency(lambda: network(example))
    return {
        "run_id": source.row["run_id"],
        "weights_sha256": source.row["weights_sha256"],
        "target": target,
        **_given(form),
        "sha256": hashlib.sha256(json.dumps(contents, sort_keys=True).encode()).hexdigest(),
        "size_bytes": sum(path.stat().st_size for path in files),
        "exported_at": datetime.now(timezone.utc),
        "split": SPLIT,
        **dataclasses.asdict(scores),
        "split_images": len(source.data.val),
        "device": device_name(torch.device("cpu")),
        "threads": threads,
        "latency_hw": list(example.shape[1:3] if form.preprocessing else example.shape[2:]),
        "latency_ms": taken.median,
        "latency_ms_p90": taken.p90,
        "latency_calls": taken.calls,
        "student_latency_ms": own.median,
        "device_agreement": None,
    }


def compared(directory: Path) -> Table:
    """The comparison of an experiment's finished runs."""
    return quick_table(store.read_rows(directory, list(COLUMNS)))


def _example(source: Source, form: Form) -> torch.Tensor:
    """What is timed: images of the graph's size, or of val's first one padded to the network's multiple."""
    image = torch.from_numpy(source.data.val[0][0].copy())[None]
    normalised = padded(to_batch(image, image[..., 0], source.info, torch.device("cpu")).image, source.network.multiple)
    if form.size_hw is not None:
        normalised = F.interpolate(normalised, form.size_hw, mode="bilinear")
    normalised = normalised.expand(form.batch or 1, *normalised.shape[1:]).contiguous()
    return as_bytes(normalised, source.info) if form.preprocessing else normalised


def _given(form: Form) -> dict[str, Any]:
    return dataclasses.asdict(form) | {"size_hw": None if form.size_hw is None else list(form.size_hw)}


def _target(target: str, form: Form, limit: int | None, threads: int) -> tuple[Weights | Graphs, dict[str, str]]:
    """The target and the versions of its packages, if it and the form are offered and the packages are there.

    Raises:
        ValueError: they are not.
    """
    if target not in TARGETS:
        raise ValueError(f"--to {target}: allowed are {', '.join(TARGETS)}")
    for name, value in {"limit": limit, "threads": threads}.items():
        if value is not None and value < 1:
            raise ValueError(f"--{name} {value}: has to be 1 or more")
    kind = TARGETS[target]
    if form.calibration is not None and (isinstance(kind, Weights) or kind.quantise is None):
        able = ", ".join(name for name, each in TARGETS.items() if isinstance(each, Graphs) and each.quantise)
        raise ValueError(f"--int8: --to {target} has no quantised form; allowed are {able}")
    if isinstance(kind, Weights) and form != Form():
        raise ValueError(f"--to {target}: these are weights, without a size, a batch or preprocessing; leave these out")
    packages = kind.packages
    if isinstance(kind, Graphs) and form.calibration is not None:
        packages += kind.quantisers
    missing = [name for name in packages if find_spec(name) is None]
    if missing:
        raise ValueError(
            f"--to {target}: {', '.join(missing)} {'is' if len(missing) == 1 else 'are'} not installed: "
            "pip install 'sstkd-bench[export]'"
        )
    return kind, {name: version(name) for name in packages}
