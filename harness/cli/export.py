"""The command `sstkd-bench export`: a trained network as a file that others load."""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import typer

from harness.cli.common import NAMING, InDirectory, Moved, ResultsOf, Set, answering, bench, place_and_name

ANY = "dynamic"


def export(
    run: Annotated[
        str,
        typer.Argument(metavar="RUN|DIRECTORY|FILE", help=f"{NAMING}; with --all, the word is an experiment file."),
    ],
    target: Annotated[str, typer.Option("--to", help="safetensors, smp, torch-export, onnx, openvino or executorch.")],
    in_directory: InDirectory = None,
    every: Annotated[bool, typer.Option("--all", help="Every student of an experiment that has finished.")] = False,
    overrides: Set = None,
    output: Annotated[
        Path | None,
        typer.Option(
            "-o", "--output", help="Folder for the files (with --all, of all); below the results folder by default."
        ),
    ] = None,
    size: Annotated[
        str, typer.Option(help="Height and width of the images, e.g. 512x1024, or `dynamic`; of a graph.")
    ] = ANY,
    batch: Annotated[str, typer.Option(help="Images at a time, or `dynamic`; of a graph.")] = ANY,
    with_preprocessing: Annotated[
        bool, typer.Option("--with-preprocessing", help="The graph takes RGB bytes and gives labels.")
    ] = False,
    int8: Annotated[
        bool, typer.Option("--int8", help="Quantise the graph after training; onnx, openvino, executorch.")
    ] = False,
    calibrate: Annotated[
        int | None, typer.Option(help="Train images by which it is quantised; 64 when not given.")
    ] = None,
    every_layer: Annotated[
        bool, typer.Option("--every-layer", help="Quantise the first and the last layers too, which stay otherwise.")
    ] = False,
    limit: Annotated[
        int | None, typer.Option(help="Judge the file on so many images of val; all when not given.")
    ] = None,
    threads: Annotated[int, typer.Option(help="Threads of the timing.")] = 1,
    bench_script: Annotated[
        bool,
        typer.Option("--bench-script", help="Put a script and 20 images beside it that time it elsewhere; onnx."),
    ] = False,
    push_to_hub: Annotated[
        str | None,
        typer.Option(metavar="ORGANISATION/NAME", help="Then upload it to a Hugging Face hub, with HF_TOKEN's rights."),
    ] = None,
    public: Annotated[bool, typer.Option("--public", help="A repository made by that is one for everybody.")] = False,
    root: Moved = None,
    results: ResultsOf = None,
) -> None:
    """Write a run's network as a file that others load, and judge the file.

    The file is evaluated by its own runtime on the run's val split, beside the network as it was trained, and timed.
    One whose mIoU differs is an error and is not kept, unless --int8 is given.
    """
    with answering():
        where, name = place_and_name(run, in_directory, results)
        if overrides and not every:
            raise ValueError("--set belongs to --all, which names an experiment file")
        if calibrate is not None and not int8:
            raise ValueError(f"--calibrate {calibrate}: belongs to --int8; give both or neither")
        if every and in_directory is not None:
            raise ValueError(f"--all takes one experiment file; given {run} and {in_directory}")
        if every and push_to_hub is not None:
            raise ValueError(f"--push-to-hub {push_to_hub}: takes one export, not those of --all")
        if bench_script and push_to_hub is not None:
            raise ValueError(
                "--bench-script: adds images of the dataset, which are not uploaded; leave out one of both"
            )
        if public and push_to_hub is None:
            raise ValueError("--public: belongs to --push-to-hub")
        size_hw, images = _size(size), _batch(batch)

        from harness.deployment.export import TARGETS, export_row
        from harness.deployment.place import place_of
        from harness.deployment.push import push, require_pushable
        from harness.deployment.source import Form
        from harness.results.exports import files_folder
        from harness.results.find import find_finished

        if target not in TARGETS:
            raise ValueError(f"--to {target}: allowed are {', '.join(TARGETS)}")
        if push_to_hub is not None:
            require_pushable(push_to_hub)
        images_of_train = (64 if calibrate is None else calibrate) if int8 else None
        form = Form(size_hw, images, with_preprocessing, images_of_train, every_layer)
        found = _students(Path(run), overrides, where) if every else [find_finished(where, name)]
        failed = []
        for directory, row in found:
            to = output or files_folder(directory)
            if every or output is None:
                to = place_of(to, row["run_id"], target, form)
            if every:
                typer.echo(f"{row['method']} seed {row['seed']}")
            try:
                exported = export_row(directory, row, target, to, form, limit, threads, root, bench_script)
            except ValueError as error:
                if not every:
                    raise
                failed.append(f"{row['method']} seed {row['seed']}: {error}")
                continue
            for line in said(exported, to):
                typer.echo(line)
            if push_to_hub is not None:
                typer.echo(push(to, push_to_hub, private=not public))
        if failed:
            raise ValueError("\n".join(failed))


def _students(file: Path, overrides: list[str] | None, results: Path) -> list[tuple[Path, dict[str, Any]]]:
    """The finished students of an experiment; says how many have not finished.

    Raises:
        ValueError: there are none.
    """
    from harness.results.find import find_finished

    asked = bench(file, overrides, results, reading=True)
    states = asked.states()
    students = [run for run in asked.runs() if run.role == "student"]
    finished = [run.run_id for run in students if states.get(run.run_id) == "ok"]
    if not finished:
        raise ValueError(
            f"{asked.directory}: none of the {len(students)} students of {file} has finished; run it first"
        )
    if len(finished) < len(students):
        typer.echo(f"{len(students) - len(finished)} of {len(students)} students have not finished and are left out")
    return [find_finished(asked.directory, run_id) for run_id in finished]


def _size(text: str) -> tuple[int, int] | None:
    if text == ANY:
        return None
    found = re.fullmatch(r"(\d+)[xX](\d+)", text)
    if found is None or not int(found[1]) or not int(found[2]):
        raise ValueError(f"--size {text}: height and width are needed, e.g. 512x1024, or {ANY}")
    return int(found[1]), int(found[2])


def _batch(text: str) -> int | None:
    if text == ANY:
        return None
    if not re.fullmatch(r"[1-9]\d{0,5}", text):
        raise ValueError(f"--batch {text}: a number of images is needed, e.g. 1, or {ANY}")
    return int(text)


def said(row: Mapping[str, Any], to: Path) -> list[str]:
    """What an export is worth, a line each."""
    same = f"{100 * row['agreement']:.3f} % of the pixels have one label"
    most = row["largest_difference"]
    differs = "" if most is None else f", a class score differs by {most:.2g} at most"
    height, width = row["latency_hw"]
    every = ", every layer" if row["every_layer"] else ""
    int8 = "" if row["calibration"] is None else f" in int8 (calibrated on {row['calibration']} images of train{every})"
    batch = f"{row['batch']} images" if row["batch"] not in (None, 1) else "an image"
    threads = f"{row['threads']} thread{'' if row['threads'] == 1 else 's'}"
    return [
        f"{to}: {row['target']}{int8}, {row['size_bytes'] / 2**20:.1f} MiB",
        f"mIoU {100 * row['miou']:.2f} on {row['images']} images of {row['split']}, as trained "
        f"{100 * row['student_miou']:.2f}; {same}{differs}",
        f"{row['latency_ms']:.1f} ms for {batch} of {height}x{width} (p90 {row['latency_ms_p90']:.1f}), in PyTorch "
        f"{row['student_latency_ms']:.1f} ms; {threads}, {row['device']}",
    ]
