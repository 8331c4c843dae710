"""The command `sstkd-bench doctor`: check the environment, and what one experiment needs."""

import os
import platform
import re
import shutil
import sys
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from harness.cli.common import DEFAULT_RESULTS, Results, answering

if TYPE_CHECKING:
    from harness.experiment.spec import Dataset, Experiment
    from harness.experiment.weights import Weights

FREE_GB = 2.0


def doctor(
    file: Annotated[Path | None, typer.Argument(help="Also check what this experiment needs.")] = None,
    results: Results = DEFAULT_RESULTS,
) -> None:
    """Check the environment: versions, devices, disk, Ray, datasets. Exit code 1 if something is missing."""
    with answering():
        problems = diagnose(file, results)
    if problems:
        raise typer.Exit(1)


def diagnose(file: Path | None, results: Path) -> int:
    """Print one line per check, and below a problem what to run; returns the number of problems."""
    from harness.report.console import output

    console = output()
    problems = 0
    for name, okay, text in [*_python(), *_devices(), _disk(results), _ray(), *_datasets(), *_experiment(file)]:
        problems += not okay
        console.print(f"{'ok  ' if okay else 'FAIL'} {name}: {text}", markup=False, highlight=False, soft_wrap=True)
    return problems


Line = tuple[str, bool, str]
"""What was looked at, whether it is as it should be, and in words: of a problem with its remedy, commands on lines of
their own."""


def _python() -> list[Line]:
    from harness.results import provenance

    lines: list[Line] = [
        ("code", True, provenance.code_version()),
        ("python", sys.version_info >= (3, 10), f"{platform.python_version()} on {platform.platform()}"),
    ]
    for name in provenance.PACKAGES:
        try:
            lines.append((name, True, version(name)))
        except PackageNotFoundError:
            lines.append((name, False, _install(name)))
    return lines


def _install(name: str, why: str = "is not installed") -> str:
    """What to run where a package is missing: with the versions that this project needs."""
    from importlib.metadata import requires

    from harness.borders import shell

    try:
        needed = requires("sstkd-bench") or []
    except PackageNotFoundError:  # run from a folder
        needed = []
    wanted = next((text for text in needed if re.match(rf"{re.escape(name)}\b(?!-)", text)), name)
    return f"{why}. Install it:\n    {shell('pip', 'install', wanted.partition(';')[0].strip())}"


def _devices() -> list[Line]:
    try:
        import torch
    except ModuleNotFoundError:
        return [("gpus", False, _install("torch", "torch is not installed"))]
    except (ImportError, OSError) as error:
        return [("gpus", False, f"torch cannot be imported: {' '.join(str(error).split())}. Install it anew")]
    cpus = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    lines: list[Line] = [("cpus", True, f"{cpus} usable, torch uses {torch.get_num_threads()} threads by default")]
    if not torch.cuda.is_available():
        text = "none; runs use the CPU (resources.gpus_per_worker: 0)"
        if shutil.which("nvidia-smi") is not None:
            kind = "a build for CPUs" if torch.version.cuda is None else f"built for CUDA {torch.version.cuda}"
            text += f". If there is one here, torch, {kind}, cannot use it: compare with the driver's version"
            text += " and install another build\n    nvidia-smi\n    https://pytorch.org/get-started/locally"
        return [*lines, ("gpus", True, text)]
    for index in range(torch.cuda.device_count()):
        gpu = torch.cuda.get_device_properties(index)
        lines.append((f"gpu {index}", True, f"{gpu.name}, {gpu.total_memory / 2**30:.0f} GiB"))
    return lines


def _disk(results: Path) -> Line:
    folder = next(p for p in [results.absolute(), *results.absolute().parents] if os.path.exists(p))
    if not folder.is_dir():
        return ("disk", False, f"{folder} is not a folder; choose another --results folder")
    free = shutil.disk_usage(folder).free / 2**30
    writable = os.access(folder, os.W_OK)
    text = f"{free:.1f} GiB free for {results.absolute()}"
    if not writable:
        return ("disk", False, f"{folder} cannot be written; choose another --results folder")
    if free < FREE_GB:
        text += f"; at least {FREE_GB:g} GiB is advisable. Free some, or check another folder:"
        text += "\n    sstkd-bench doctor --results FOLDER"
    return ("disk", free >= FREE_GB, text)


def _ray() -> Line:
    try:
        import ray

        from harness.execution.connection import connected
        from harness.experiment.resources import Resources

        with connected(Resources()):
            total = ray.cluster_resources()
            return (
                "ray",
                True,
                f"a local instance starts ({total.get('CPU', 0):g} CPUs, {total.get('GPU', 0):g} GPUs)",
            )
    except ModuleNotFoundError as error:
        if (error.name or "").partition(".")[0] == "ray":
            return ("ray", False, _install("ray"))
        return ("ray", False, _install(str(error.name), f"needs {error.name}, which is not installed"))
    except Exception as error:  # whatever keeps Ray from starting is the finding
        text = " ".join(f"{type(error).__name__}: {error}".split())
        remedy = (
            "Ray needs memory, room in the temporary folder, and connections to 127.0.0.1; try again when it is idle"
        )
        return ("ray", False, f"a local instance does not start: {text}. {remedy}")


def _datasets() -> list[Line]:
    try:
        from harness.datasets import texmosaic

        texmosaic(train=1, dev=1, val=1)
    except (ValueError, ImportError) as error:
        return [("texmosaic", False, str(error))]
    return [("texmosaic", True, "embedded; every photograph is there")]


def _experiment(file: Path | None) -> list[Line]:
    if file is None:
        return []
    from harness.bench import Bench
    from harness.cli.common import load
    from harness.experiment.plan import outline

    try:
        experiment = Bench(load(file, None)).fetch_weights(fetch=False)
        runs = outline(experiment)
    except ValueError as error:
        return [(str(file), False, line) for line in str(error).splitlines()]
    lines: list[Line] = [(str(file), True, f"{len(runs)} runs")]
    lines += [*_data(experiment.data), *_gpus_wanted(file, experiment)]
    for pair in experiment.pairs:
        for name, weights in (
            ("teacher.checkpoint", pair.teacher.checkpoint),
            ("teacher.encoder_weights", pair.teacher.encoder_weights),
            ("student.encoder_weights", pair.student.encoder_weights),
        ):
            if weights is not None:
                lines.append((f"{pair.name}: {name}", *_weights(weights)))
    return lines


def _gpus_wanted(file: Path, experiment: "Experiment") -> list[Line]:
    """Whether the GPUs that the runs ask for are here; those of a cluster are not looked for."""
    from harness.borders import shell

    wanted = experiment.resources.gpus_per_worker
    if not wanted or experiment.resources.address != "local":
        return []
    try:
        import torch
    except ImportError:
        return []  # which is a line of its own
    if torch.cuda.is_available():
        return []
    command = shell("sstkd-bench", "run", str(file), "--set", "resources.gpus_per_worker=0")
    return [
        (
            "resources.gpus_per_worker",
            False,
            f"asks for {wanted:g}, and there is none here. To run on the CPU, slower:\n    {command}",
        )
    ]


def _data(data: "Dataset") -> list[Line]:
    """What is below data.root, by name only: reading all of it takes minutes, and is what `data check` is for."""
    from harness.borders import shell

    try:
        from harness.datasets import SOURCES, cache, inspect
        from harness.datasets.tree import Tree
        from harness.experiment.method import dataset_entry

        if data.name not in SOURCES:
            return [] if data.root is None else [("data.root", True, data.root)]
        if data.root is None:
            text = f"is missing. How to get the data:\n    sstkd-bench data info {data.name}"
            return [("data.root", False, text)]
        root, parameters = Path(data.root), dataset_entry(data.name).parameters.model_validate(data.parameters)
        source, variant, _ = inspect.source_of(data.name, root, parameters.model_dump(mode="json"))
        if cache.is_cache(root):
            found = cache.read_index(root, cache.read_manifest(root))
            pairs = ", ".join(f"{len(lines)} {split}" for split, lines in found.items())
            return [("data.root", True, f"{root}, a prepared cache ({pairs})")]
        listing = source.listing(Tree(root), **variant)
    except (ValueError, OSError, ImportError) as error:
        return [("data.root", False, line) for line in str(error).splitlines()]
    pairs = ", ".join(f"{len(samples)} {split}" for split, samples in listing.samples.items())
    if not listing.problems:
        return [("data.root", True, f"{root} ({pairs})")]
    count = f"{len(listing.problems)} problem{'s' * (len(listing.problems) > 1)}"
    command = shell("sstkd-bench", "data", "check", data.name, "--root", str(root))
    return [("data.root", False, f"{count}; the first: {listing.problems[0]}\nAll of them:\n    {command}")]


def _weights(weights: "Weights") -> tuple[bool, str]:
    from harness.files import sha256

    try:
        same = sha256(Path(weights.path)) == weights.sha256
    except (OSError, ImportError) as error:
        return False, f"{weights.path} cannot be read: {error}. Correct the path, or its permissions"
    remedy = "Fetch the file again, or correct `sha256` in the experiment file"
    return same, weights.path if same else f"{weights.path} has another sha256. {remedy}"
