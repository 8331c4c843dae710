"""Digests of weights that are not on this machine, from the rows that were made with them."""

import json
from pathlib import Path
from typing import Any, TypeVar

from harness.experiment.spec import Experiment, Network
from harness.experiment.weights import IN_FOLDERS, WAYS, Weights, of_networks
from harness.results import store

N = TypeVar("N", bound=Network)


def with_digests(experiment: Experiment, directory: Path) -> Experiment:
    """The experiment with digests of weight files that are elsewhere, from each pair's newest row.

    Only from a row of the same architecture, encoder and name of the weights, or of the file: whose folder it is may
    differ between machines.

    Args:
        experiment: weights whose digest is unknown have none.
        directory: the experiment's results folder; it need not exist.
    """
    networks = [network for pair in experiment.pairs for network in (pair.teacher, pair.student)]
    if not directory.is_dir() or all(weights.sha256 is not None for weights in of_networks(networks)):
        return experiment
    rows = store.read_rows(directory, ["pair", "role", "spec", "finished_at"]).to_pylist()
    students = sorted((row for row in rows if row["role"] == "student"), key=lambda row: row["finished_at"])
    newest = {row["pair"]: json.loads(row["spec"]) for row in students}
    pairs = []
    for pair in experiment.pairs:
        if spec := newest.get(pair.name):
            teacher = _digested(pair.teacher, spec.get("teacher"))
            pair = pair.model_copy(update={"teacher": teacher, "student": _digested(pair.student, spec.get("network"))})
        pairs.append(pair)
    return experiment.model_copy(update={"pairs": tuple(pairs)})


def _digested(network: N, seen: Any) -> N:
    if not isinstance(seen, dict):
        return network
    found: dict[str, Weights] = {}
    for key in ("encoder_weights", "checkpoint"):
        weights, then = getattr(network, key, None), seen.get(key)
        if weights is None or weights.sha256 is not None or not then:
            continue
        named = any(getattr(weights, way) for way in WAYS)
        same = all(then.get(way) == getattr(weights, way) for way in WAYS)
        same = same and all(seen.get(what) == getattr(network, what) for what in ("architecture", "encoder"))
        if same and (named or _same_name(Path(then["path"]), Path(weights.path))):
            seen_there = Weights.model_validate_json(json.dumps(then))
            found[key] = seen_there if named else weights.model_copy(update={"sha256": then["sha256"]})
    return network.model_copy(update=found)


def _same_name(file: Path, given: Path) -> bool:
    """Whether a file is called as given, or is in a folder called as given, which stands for it."""
    return file.name == given.name or (file.name in IN_FOLDERS and file.parent.name == given.name)
