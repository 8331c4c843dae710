"""The commands `sstkd-bench init` and `distill`: a first experiment file from five answers; and its table at once."""

import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from harness.cli.common import DEFAULT_RESULTS, AsJson, Results, Set, answering, require_place
from harness.cli.run import run

if TYPE_CHECKING:
    from harness.experiment.starter import Answers

DEFAULT_FILE = Path("experiment.yaml")
QUESTIONS = {
    "data": "Data (a folder of images and masks, texmosaic, or NAME:FOLDER)",
    "teacher": "Teacher (ARCHITECTURE:ENCODER, package.module:Name, or with weights ...@FILE)",
    "student": "Student (ARCHITECTURE:ENCODER or package.module:Name)",
    "methods": "Methods (separated by commas)",
    "gpus": "GPUs (0: only CPUs)",
}

Data = Annotated[
    str | None,
    typer.Option(help="A folder of images, masks and classes.yaml; texmosaic or landcover; or NAME:FOLDER."),
]
Teacher = Annotated[
    str | None,
    typer.Option(
        help="ARCHITECTURE:ENCODER (deeplabv3:tu-resnet101) or package.module:Name; with @FILE after it, trained "
        "weights; or a file results/NAME/weights/RUN_ID.safetensors."
    ),
]
Student = Annotated[str | None, typer.Option(help="ARCHITECTURE:ENCODER or package.module:Name.")]
Methods = Annotated[
    str | None, typer.Option(help="Names separated by commas, e.g. cwd,sstkd; none and kd are always there.")
]
Gpus = Annotated[int | None, typer.Option(help="GPUs to use; 0 (the default) trains on CPUs.")]
Force = Annotated[bool, typer.Option("--force", help="Replace a file that is there.")]


def init(
    file: Annotated[Path, typer.Argument(help="The file to write.")] = DEFAULT_FILE,
    data: Data = None,
    teacher: Teacher = None,
    student: Student = None,
    methods: Methods = None,
    gpus: Gpus = None,
    force: Force = False,
) -> None:
    """Write a commented experiment file from five answers.

    They are given by flags; on a terminal those that are not given are asked for.
    """
    with answering():
        from harness.borders import shell
        from harness.files import write_atomic

        given = {"data": data, "teacher": teacher, "student": student, "methods": methods, "gpus": gpus}
        _require_free(file, force)
        write_atomic(file, _checked(_complete(given), file))
        typer.echo(f"{file}: written. Next:")
        for command in ("check", "run"):
            typer.echo(f"    {shell('sstkd-bench', command, str(file))}")


def distill(
    data: Data = None,
    teacher: Teacher = None,
    student: Student = None,
    methods: Methods = None,
    gpus: Gpus = None,
    file: Annotated[
        Path, typer.Option(help="The experiment file to write, or that this command wrote.")
    ] = DEFAULT_FILE,
    overrides: Set = None,
    results: Results = DEFAULT_RESULTS,
    force: Force = False,
    as_json: AsJson = False,
) -> None:
    """Compare methods on your data: write the file, run it, print the table.

    Re-run the same command to resume.
    """
    with answering():
        from harness.borders import shell
        from harness.files import write_atomic

        require_place(results)
        given = {"data": data, "teacher": teacher, "student": student, "methods": methods, "gpus": gpus}
        text = _checked(_complete(given), file, overrides or [])
        if not (file.is_file() and file.read_bytes() == text.encode()):
            if file.is_file() and not force:
                raise ValueError(
                    f"{file}: is there already and is not what these answers give. If you have edited it: "
                    f"{shell('sstkd-bench', 'run', str(file))}. --force writes it anew and loses the edits"
                )
            _require_free(file, force)
            write_atomic(file, text)
            if not as_json:
                typer.echo(f"{file}: written")
    run(file, overrides, results, as_json=as_json)


def _require_free(file: Path, force: bool) -> None:
    if file.is_dir():
        raise ValueError(f"{file}: is a folder; give the file to write, e.g. {file / DEFAULT_FILE}")
    if not file.parent.is_dir():
        raise ValueError(f"{file}: there is no folder {file.parent}; make it first")
    if (file.exists() or file.is_symlink()) and not force:
        raise ValueError(f"{file}: is there already; give another name, or --force to replace it")


def _complete(given: Mapping[str, Any]) -> "Answers":
    """The answers; those not given are asked for on a terminal.

    Raises:
        ValueError: one that has no default is missing, and there is no terminal.
    """
    from harness.experiment import starter

    defaults: dict[str, Any] = {"data": starter.DATA, "teacher": starter.TEACHER, "student": starter.STUDENT}
    defaults |= {"methods": starter.METHODS, "gpus": 0}
    found = {name: value for name, value in given.items() if value is not None}
    if sys.stdin.isatty() and sys.stdout.isatty():
        for name in [name for name in QUESTIONS if name not in found]:
            found[name] = _asked(name, defaults[name])
    elif missing := [f"--{name}" for name in ("data", "teacher", "student") if name not in found]:
        raise ValueError(f"{', '.join(missing)}: missing; this is not a terminal, where it would be asked")
    answers = starter.Answers(**{**defaults, **found})
    own = _own_weights(Path(answers.teacher)) if isinstance(answers.teacher, str) else None
    return answers if own is None else starter.Answers(**{**defaults, **found, **own})


def _asked(name: str, default: Any) -> Any:
    """An answer from the terminal, asked for until it has a form that is allowed."""
    from harness.experiment.starter import require_answer

    while True:
        answer = typer.prompt(QUESTIONS[name], default=default)
        try:
            require_answer(name, answer)
        except ValueError as error:
            typer.echo(f"error: {error}", err=True)
            continue
        return answer


def _own_weights(path: Path) -> dict[str, Any] | None:
    """Answers of a file `weights/RUN_ID.safetensors` in a results folder: the row beside it says how it was trained."""
    from harness.results import store
    from harness.results.paths import run_path

    directory = path.parent.parent
    if path.parent.name != "weights" or not path.is_file():
        return None
    if not run_path(directory, path.stem).is_file() and not store.packed(directory, path.stem):
        return None
    row = store.read_run(directory, path.stem)
    run = store.run_of(directory, row)
    network = run.network.model_dump(mode="json", exclude_defaults=True)
    network.pop("encoder_weights", None)  # they are in the trained ones
    teacher = {**network, "checkpoint": {"path": str(path), "sha256": row["weights_sha256"]}}
    default = type(run.train).model_fields["normalize"].default
    return {"teacher": teacher, "normalize": None if run.train.normalize == default else run.train.normalize}


def _checked(answers: "Answers", file: Path, overrides: list[str] | None = None) -> str:
    """The file's text, which the reader of experiment files has accepted; its errors name the file to be written.

    Raises:
        ValueError: an answer names something that is not there.
    """
    from harness.experiment.load import load
    from harness.experiment.starter import starter

    text = starter(answers, file.stem, _image_size(answers.data))
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "experiment.yaml"
        path.write_text(text, encoding="utf-8")
        try:
            load(path, overrides or [])
        except ValueError as error:
            raise ValueError(str(error).replace(str(path), str(file))) from None
    return text


def _image_size(data: str) -> tuple[int, int] | None:
    """Height and width of one of the folder's images; None where there is none that can be read."""
    from harness.datasets.header import header
    from harness.experiment.starter import IMAGES_OF, data_of
    from harness.experiment.yaml_reader import expand_variables

    section = data_of(data)
    if section["name"] != "folder":
        return None
    try:
        inner = IMAGES_OF.get(section.get("parameters", {}).get("layout"), "images")
        images = Path(expand_variables(section["root"])) / inner
    except ValueError:  # which the reader of the file says of its key
        return None
    for path in sorted(images.rglob("*"))[:10_000] if images.is_dir() else ():
        try:
            if path.is_file():
                head = header(path.read_bytes())
                return (head.width, head.height) if head.orientation >= 5 else (head.height, head.width)
        except (OSError, ValueError):
            continue
    return None
