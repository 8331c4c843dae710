"""Read an experiment file; an error names file, line and key, what is allowed, and the nearest name."""

import json
import os
import re
import typing
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, TypeVar

from pydantic import BaseModel, ValidationError

from harness.borders import quoted
from harness.experiment import controls, network_rules, rules, yaml_reader
from harness.experiment.meanings import nearest
from harness.experiment.method import Method, dataset_entry, loss_entry, method_entry
from harness.experiment.recipe import Spec, Train
from harness.experiment.signatures import plain
from harness.experiment.spec import Experiment, Network
from harness.experiment.weights import PathMark, digested, filled_in
from harness.experiment.yaml_reader import KeyPath, dotted

M = TypeVar("M", bound=BaseModel)
N = TypeVar("N", bound=Network)
Report = Callable[[KeyPath, str], None]
IN_CLUSTER = ("metadata", "experiment")
"""Place of the experiment in a Ray cluster file: `metadata` is the only key that may hold anything."""
FILLED_IN = {"overrides": "--set", "given": "methods"}
"""Fields of an experiment that are not keys of a file, and where they come from."""
SHOWN = 20
"""Number of errors that are listed."""
LONGEST = 700
"""Characters of one error; a value in it may be longer than anybody reads."""
MOST_RUNS = 100_000
CLUSTER_KEYS = {"cluster_name", "provider"}
"""Keys that every Ray cluster file has and no experiment has."""


def load(path: str | Path, overrides: Sequence[str] = (), *, here: bool = True) -> Experiment:
    """Read and validate an experiment file, or the experiment in a Ray cluster file.

    Args:
        path: the file.
        overrides: `key.path=value`, applied first; the key paths are the experiment's in both forms of file.
        here: False if the runs execute on another machine: paths keep their `${VAR}` and need not exist, so that
            checksums of weights that the file does not give stay unknown.

    Raises:
        ValueError: all errors, one line each: file and line, key path, what is wrong, what is allowed. Methods and the
            dataset are checked once the rest is valid.

    Example:
        >>> import harness
        >>> experiment = harness.load("experiments/quickstart.yaml", ["train.steps=20"])
        >>> experiment.name, experiment.train.steps, [method.label for method in experiment.methods]
        ('quickstart', 20, ['none', 'kd', 'cwd', 'sstkd'])
    """
    if isinstance(overrides, str):  # its characters would be taken for overrides
        raise ValueError(f'overrides is the text "{overrides}"; a list is needed: ["{overrides}"]')
    path = Path(path)
    document, lines = yaml_reader.read(path)
    data, root = _experiment_in(document, path, lines)
    from_set: dict[KeyPath, str] = {}
    problems: dict[KeyPath, str] = {}

    def report(at: KeyPath, message: str) -> None:
        full = (*root, *at)
        inner = None if full in lines else at  # a parent key that --set created
        origin = next((t for key, t in from_set.items() if at[: len(key)] == key or key[: len(at)] == inner), None)
        line = next((lines[full[:n]] for n in range(len(full), 0, -1) if full[:n] in lines), None)
        place = f"{path}:{line}" if line else f"{path}"
        where = f"{origin}: {dotted(at)}" if origin else f"{place}: {dotted(full)}"
        problems.setdefault(at, quoted(f"{where}: {message}", LONGEST))

    if root:  # Ray's launcher writes the file as its own reader understood it to the head node
        for at, value in yaml_reader.read_otherwise_by_ray(path, data, root):
            report(at, f"Ray reads {value!r} here. Quote text, write numbers as 1.0e-3, and true or false in full")
    from_set |= {yaml_reader.override(data, text): f"--set {quoted(text)}" for text in overrides}
    for key in FILLED_IN.keys() & data.keys():
        report((key,), f"unknown key. It is filled in from {FILLED_IN[key]}; delete it.")
        del data[key]
    for index, role, name, key in filled_in(data):
        report(("pairs", index, role, name, key), "unknown key. It is filled in when weights are found; delete it.")
    _expand_paths(data, Experiment, (), report, here)
    experiment = validate(Experiment, data, (), report)
    if experiment is not None and not problems:
        experiment = _resolve(experiment, data["methods"], report, here)
    if problems or experiment is None:
        raise ValueError(listed(list(problems.values())))
    return experiment.model_copy(update={"overrides": tuple(overrides)})


def listed(problems: Sequence[str]) -> str:
    """The first `SHOWN` of some problems, a line each, and how many more there are."""
    more = len(problems) - SHOWN
    return "\n".join([*problems[:SHOWN], *([f"... and {more} more"] if more > 0 else [])])


def _experiment_in(
    document: dict[str, Any], path: Path, lines: dict[KeyPath, int]
) -> tuple[dict[str, Any], tuple[str, ...]]:
    """The experiment in a file, and its key path: empty, or `metadata.experiment` of a Ray cluster file.

    Raises:
        ValueError: a cluster file without an experiment.
    """
    if not CLUSTER_KEYS & document.keys():
        return document, ()
    metadata = document.get("metadata")
    found = metadata.get("experiment") if isinstance(metadata, dict) else None
    if not isinstance(found, dict):
        line = next((lines[key] for key in (IN_CLUSTER, IN_CLUSTER[:1]) if key in lines), 1)
        raise ValueError(
            f"{path}:{line}: {dotted(IN_CLUSTER)}: a Ray cluster file (it has {', '.join(sorted(CLUSTER_KEYS))}) holds "
            "its experiment here, as a mapping (name:, data:, ...); there is none."
        )
    return found, IN_CLUSTER


def validate(model: type[M], data: Any, at: KeyPath, report: Report) -> M | None:
    """`data` as a `model`, strictly and as JSON (lists become tuples, an integer is a float).

    Args:
        model: the model.
        data: plain data.
        at: its key path, for the reports.
        report: called with each error: key path and message.

    Returns:
        None if something was reported.
    """
    try:
        return model.model_validate_json(json.dumps(data))
    except ValidationError as error:
        problems = error.errors()
    for number, problem in enumerate(problems):
        loc = problem["loc"]
        if problem["type"] == "too_short" and any(p["loc"][: len(loc)] == loc != p["loc"] for p in problems):
            continue  # the invalid items are reported themselves
        if number > SHOWN:  # counted, not shown
            message = problem["type"]
        elif problem["type"] == "extra_forbidden":
            allowed = [key for key in _model_at(model, loc[:-1]).model_fields if key not in FILLED_IN]
            message = (
                f"unknown key.{nearest(str(loc[-1]), allowed, keys=True)} Allowed: {', '.join(allowed) or 'no keys'}"
            )
        elif problem["type"] == "missing" and isinstance(loc[-1], int):
            message = f"the list ends before this item; given {_given(problem['input'])}"
        elif problem["type"] == "missing":
            message = "this key is missing; it has no default"
        else:
            message = _words(problem["msg"])
            if "credentials" not in message:  # they are not repeated
                message += f"; given {_given(problem['input'])}"
            if problem["type"] == "literal_error":
                message += "." + nearest(str(problem["input"]), re.findall(r"'([^']*)'", problem["ctx"]["expected"]))
        report((*at, *loc), message)
    return None


def _given(value: Any) -> str:
    return quoted(json.dumps(value, default=str))


def _words(message: str) -> str:
    """Pydantic's message in terms of a YAML file."""
    for theirs, ours in (
        ("Value error, ", ""),
        ("Tuple should have", "The list should have"),
        ("valid array", "list"),
        ("a valid boolean", "true or false"),
        ("an object", "a mapping (key: value)"),
        ("a valid string", "text (quote it)"),
    ):
        message = message.replace(theirs, ours)
    return message


def _model_at(model: type[BaseModel], loc: KeyPath) -> type[BaseModel]:
    """The model at the place `loc` below `model`, for the list of its keys."""
    for part in loc:
        if isinstance(part, str) and part in model.model_fields:
            inner = _models_in(model.model_fields[part].annotation)
            model = inner[0] if inner else model
    return model


def _models_in(annotation: Any) -> list[type[BaseModel]]:
    if isinstance(annotation, type) and not typing.get_args(annotation):  # Python 3.10: list[int] is a type too
        return [annotation] if issubclass(annotation, BaseModel) else []
    return [found for item in typing.get_args(annotation) for found in _models_in(item)]


def _expand_paths(value: Any, model: type[BaseModel], at: KeyPath, report: Report, here: bool) -> None:
    """Expand `${VAR}` in path fields (in place) and, if `here`, require that they exist; refuse `${` elsewhere."""
    if isinstance(value, list):
        for index, item in enumerate(value):
            if isinstance(item, str):
                if "${" in item:
                    report(
                        (*at, index),
                        f"${{...}} is expanded in paths only; write the value itself instead of {item!r}",
                    )
            else:
                _expand_paths(item, model, (*at, index), report, here)
    if not isinstance(value, dict):
        return
    for key, item in value.items():
        place = (*at, key)
        field = model.model_fields.get(str(key))
        mark = _path_mark(field) if field is not None and isinstance(item, str) else None
        if mark is not None:
            if not here:
                continue
            try:
                value[key] = yaml_reader.expand_variables(item)
            except ValueError as error:
                report(place, str(error))
                continue
            value[key] = os.path.abspath(value[key]) if value[key] else ""  # workers have another current folder
            inside = (os.path.join(value[key], name) for name in mark.inside if value[key])
            value[key] = next(filter(os.path.isfile, inside), value[key])
            if not (os.path.isfile if mark.kind == "file" else os.path.isdir)(value[key]):
                report(
                    place,
                    f"there is no {mark.kind} {value[key] or repr('')}. Correct the path or fetch the {mark.kind}.",
                )
        elif isinstance(item, str) and "${" in item:
            report(place, f"${{...}} is expanded in paths only; write the value itself instead of {item!r}")
        elif field is not None:
            inner = _models_in(field.annotation)
            _expand_paths(item, inner[0] if inner else Spec, place, report, here)
        else:
            _expand_paths(item, Spec, place, report, here)


def _path_mark(field: Any) -> PathMark | None:
    """The mark of a path field (`FilePath` or `FilePath | None`); None for any other."""
    metadata = [
        *field.metadata,
        *(m for a in typing.get_args(field.annotation) for m in getattr(a, "__metadata__", ())),
    ]
    return next((m for m in metadata if isinstance(m, PathMark)), None)


def _resolve(experiment: Experiment, written: list[Any], report: Report, here: bool) -> Experiment:
    """Check names against the tables, fill in every default, and look for repeated entries.

    Args:
        experiment: as validated so far.
        written: `methods` as in the file, to name the key of an error.
        report: called with each error.
        here: whether weight files are on this machine, for their checksums.
    """
    methods = [
        _resolve_method(method, ("methods", index), written[index], report)
        for index, method in enumerate(experiment.methods)
    ]
    data = experiment.data
    try:
        dataset = dataset_entry(data.name)
        found = validate(dataset.parameters, data.parameters, ("data", "parameters"), _of_outside(data.name, report))
        data = data.model_copy(update={"parameters": plain(dataset, found) if found else {}})
    except ValueError as error:
        report(("data", "name"), str(error))
    experiment = experiment.model_copy(update={"train": _resolve_losses(experiment.train, report)})
    pairs, roles = experiment.pairs, ("teacher", "student")
    for index, pair in enumerate(pairs):
        for role in roles:
            network = getattr(pair, role)
            named = network.architecture, network.encoder, network.parameters, network.taps
            for at, message in network_rules.problems(*named):
                report(("pairs", index, role, *at), message)
    if here:
        pairs = tuple(
            pair.model_copy(
                update={role: _digested(getattr(pair, role), ("pairs", index, role), report) for role in roles}
            )
            for index, pair in enumerate(pairs)
        )
    same = [(p.teacher, p.student) for p in pairs]
    for key, items, names in (
        ("methods", methods, [m.label if m is not None else "" for m in methods]),
        ("seeds", experiment.seeds, experiment.seeds),
        ("pairs", [p.name for p in experiment.pairs], [p.name for p in experiment.pairs]),
        ("pairs", same, [f"the pair of networks {p.name}" for p in experiment.pairs]),
    ):
        seen = set()
        for index, item in enumerate(items):
            entry = None if item is None else _canonical(item)
            if entry is not None and entry in seen:
                report((key, index), f"{names[index]} is listed twice; list each entry once")
            seen.add(entry)
    runs = sum(rules.teachers(experiment).values()) * len(experiment.methods) * len(experiment.seeds)
    if runs > MOST_RUNS:
        report(
            ("seeds",),
            f"teachers x methods x seeds are {runs:,} runs; allowed are {MOST_RUNS:,}. Divide the experiment",
        )
    try:
        rules.require_control(experiment)
    except ValueError as error:
        report(("methods",), str(error))
    given: tuple[tuple[str, ...], ...] = ()
    if experiment.search is not None:
        given = tuple(tuple(sorted(method.parameters)) for method in experiment.methods)
    known = tuple(m for m in methods if m is not None)
    budget = experiment.budget
    if experiment.controls:
        listed = known
        known = controls.with_controls(listed)
        if given:  # what a control takes over from its method is fixed; `kd` as such is tuned like all methods
            given += tuple(tuple(sorted(controls.fixed(method, listed))) for method in known[len(listed) :])
    if budget.longer is None:
        budget = budget.model_copy(update={"longer": experiment.controls and budget.unit == "steps"})
    resolved = {"methods": known, "data": data, "pairs": pairs, "given": given, "budget": budget}
    experiment = experiment.model_copy(update=resolved)
    for at, message in rules.problems(experiment):
        report(at, message)
    return experiment


def _canonical(value: Any) -> str:
    """Equal for equal seeds, names and models, and for tuples of them."""
    parts = value if isinstance(value, tuple) else (value,)
    plain = [part.model_dump(mode="json") if isinstance(part, BaseModel) else part for part in parts]
    return json.dumps(plain, sort_keys=True)


def _digested(network: N, at: KeyPath, report: Report) -> N:
    """The network with the checksums of weights in files, whose existence `_expand_paths` checked, and in packages."""
    found = {}
    for key in ("encoder_weights", "checkpoint"):
        if (weights := getattr(network, key, None)) is not None:
            try:
                found[key] = digested(weights)
            except ValueError as error:
                report((*at, key), str(error))
    return network.model_copy(update=found)


def _resolve_losses(train: Train, report: Report) -> Train:
    """The recipe with the parameters of task losses from outside filled in."""
    terms = []
    for index, term in enumerate(train.loss or ()):
        if ":" in term.name:
            at: KeyPath = ("train", "loss", index)
            try:
                said = _of_outside(term.name, report)
                found = validate(loss_entry(term.name).parameters, term.parameters, (*at, "parameters"), said)
            except ValueError as error:
                report((*at, "name"), str(error))
                continue
            term = term.model_copy(update={"parameters": found.model_dump(mode="json") if found else {}})
        terms.append(term)
    return train.model_copy(update={"loss": tuple(terms) or None})


def _resolve_method(method: Method, at: KeyPath, written: Any, report: Report) -> Method | None:
    """The method with every default filled in but those of added parameters; None, and a report, if one is wrong."""
    parts: list[Method] = []
    try:
        found = method.parts
    except ValueError as error:
        report(at, str(error))
        return None
    for part in found:
        here, form, said = at, written, report
        if isinstance(written, list):
            index = [_name(item) for item in written].index(part.name)
            here, form = (*at, index), written[index]
        elif len(found) > 1:
            said = _prefixed(part.name, report)
        key = "parameters" if isinstance(form, dict) and "name" in form else part.name
        try:
            entry = method_entry(part.name)
            parameters = validate(entry.parameters, part.parameters, (*here, key), said)
        except ValueError as error:
            report(here, str(error))
            continue
        if parameters is not None:
            parts.append(part.model_copy(update={"parameters": plain(entry, parameters)}))
    return Method.summed(parts) if len(parts) == len(found) else None


def _name(written: Any) -> str:
    """The method that one entry of a file's list names."""
    return written if isinstance(written, str) else str(written.get("name", next(iter(written))))


def _of_outside(name: str, report: Report) -> Report:
    """A report that says which parameters a function or class of the user's own has, where one is not known."""
    how = ". Parameters are keyword-only arguments with an annotation: (..., *, alpha: float = 1.0)"
    return lambda at, message: report(at, message + how * (":" in name and message.startswith("unknown key")))


def _prefixed(name: str, report: Report) -> Report:
    """A report that names a parameter of one method as the sum's parameter METHOD.NAME."""
    return lambda at, message: report((*at[:3], f"{name}.{at[3]}", *at[4:]), message)
