"""The points of a search that are drawn before its first trial, and the file that identifies a folder's search.

Under the ruleset `tuned` point 0 is the published one, as it is: it may lie outside the ranges. All methods share the
coordinates of the other points in the unit cube: point 3 of every method has the same learning rate, and methods with
equally many hyper-parameters are tried at the same places.
"""

import io
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray
from scipy.stats import qmc

from harness import seeds
from harness.experiment.rules import SOBOL
from harness.experiment.search_settings import ONLY_SEARCHED, ONLY_TUNED, Search
from harness.experiment.space import Dimension, values_at
from harness.experiment.spec import Experiment
from harness.experiment.studies import Study, trial_run
from harness.files import write_atomic

MOST = 64
"""Coordinates drawn for every point, however many a space needs, so that every method gets the same ones."""
LEARNING = "tpe"
"""The algorithm whose points follow from earlier trials."""
FILE = "points.parquet"

Values = dict[str, float]


def proposer(experiment: Experiment) -> str:
    """What proposes the trials: `sobol`, or the algorithm of the ruleset `searched`."""
    assert experiment.search is not None
    return experiment.search.algorithm or SOBOL


def unit_points(seed: int, count: int, algorithm: str) -> NDArray[np.float64]:
    """Points of the unit cube, (count, MOST): scrambled Sobol for `sobol`, else independent uniform numbers."""
    if algorithm != SOBOL:
        return seeds.numpy_stream(seed, "random points").random((count, MOST))
    # The sequence is balanced for powers of two: so many are drawn, and the first `count` are used.
    drawn = qmc.Sobol(MOST, scramble=True, rng=seeds.derive(seed, "sobol points")).random_base2(
        max(0, count - 1).bit_length()
    )
    return np.asarray(drawn[:count], np.float64)


def drawn(experiment: Experiment, studies: Sequence[Study]) -> list[list[Values]]:
    """For each study the values of its points; none where the algorithm finds them during the search.

    Raises:
        ValueError: a method has more to search than `MOST`.
    """
    search, algorithm = experiment.search, proposer(experiment)
    assert search is not None
    for study in studies:
        if len(study.space) > MOST:
            raise ValueError(
                f"methods: {study.label}: {len(study.space)} hyper-parameters to search; at most {MOST}. Fix some by "
                "giving their values"
            )
    if algorithm == LEARNING:
        return [[] for _ in studies]
    first = int(algorithm == SOBOL)  # 1 where point 0 is the published one
    unit = unit_points(search.run_seeds[0], search.trials - first, algorithm)
    tried = [[values_at(study.space, list(row)) for row in unit] for study in studies]
    return [[study.published] * first + values for study, values in zip(studies, tried, strict=True)]


def keep(folder: Path, experiment: Experiment, studies: Sequence[Study], values: Sequence[Sequence[Values]]) -> None:
    """Write the definition of the search and its points, or check that the folder holds this very search.

    Args:
        folder: of the search.
        experiment: whose search.
        studies: of the experiment.
        values: as `drawn` gives them.

    Raises:
        ValueError: the folder holds a different search, or the file cannot be read.
        OSError: the disk is full or cannot be written.
    """
    path, algorithm = folder / FILE, proposer(experiment)
    definition = _definition(experiment, studies)
    table = pa.Table.from_pylist(
        [
            {
                "pair": study.template.pair,
                "method": study.label,
                "trial": number,
                "run_id": trial_run(study, number, algorithm, each, seed).run_id,
                "values": json.dumps(each),
            }
            for study, points in zip(studies, values, strict=True)
            for number, each in enumerate(points)
            for seed in study.seeds
        ],
        schema=pa.schema(
            [(name, pa.int64() if name == "trial" else pa.string()) for name in _COLUMNS],
            metadata={"search": json.dumps(definition, sort_keys=True)},
        ),
    )
    if path.is_file():
        require_same(folder, experiment, studies)
        if not pq.read_table(path).equals(table):
            raise ValueError(
                f"{path}: its points differ from those drawn here, perhaps because of another version of SciPy. Resume "
                f"the search where it was begun, or remove {folder} to search anew."
            )
        return
    folder.mkdir(parents=True, exist_ok=True)
    sink = io.BytesIO()
    pq.write_table(table, sink, compression="zstd")
    write_atomic(path, sink.getvalue())


_COLUMNS = ("pair", "method", "trial", "run_id", "values")


def require_same(folder: Path, experiment: Experiment, studies: Sequence[Study]) -> None:
    """Check that the folder's search, if it has one, is that of the experiment.

    Raises:
        ValueError: it is a different one, or the file cannot be read.
    """
    path = folder / FILE
    if not path.is_file():
        return
    try:
        said = json.loads(pq.read_schema(path).metadata[b"search"])
    except (pa.ArrowInvalid, OSError, KeyError, TypeError, ValueError) as error:
        raise ValueError(f"{path}: cannot be read ({error}). Remove {folder} to search anew.") from None
    flat, other = dict(_flat(json.loads(json.dumps(_definition(experiment, studies))))), dict(_flat(said))
    changed = [
        f"{key}: {other.get(key, 'nothing')} there, {flat.get(key, 'nothing')} here"
        for key in sorted(flat.keys() | other.keys())
        if flat.get(key) != other.get(key)
    ]
    if changed:
        more = f"; and {len(changed) - 3} more" if len(changed) > 3 else ""
        raise ValueError(
            f"{path}: this folder holds a different search ({'; '.join(changed[:3])}{more}). Give the experiment "
            f"another name, or remove {folder} to search anew."
        )


def _definition(experiment: Experiment, studies: Sequence[Study]) -> dict[str, Any]:
    """Everything that determines the trials, as plain data."""
    assert experiment.search is not None
    return {
        "protocol_version": experiment.protocol.version,
        "protocol": experiment.protocol.model_dump(mode="json", exclude={"version"}),
        "search": _settings(experiment.search),
        "trial": {
            study.template.pair: {k: v for k, v in study.template.identity().items() if k not in ("method", "protocol")}
            for study in studies
        },
        "methods": {
            ", ".join(study.key): {
                "parameters": study.template.method.parameters,
                "space": [_dimension(each) for each in study.space],
            }
            for study in studies
        },
    }


def _settings(search: Search) -> dict[str, Any]:
    """The section `search`, without the keys of the other ruleset; the seeds are those that are used."""
    if search.algorithm is None:
        return search.model_dump(mode="json", exclude={*ONLY_SEARCHED, "seed", "steps"}) | {"seeds": search.run_seeds}
    return search.model_dump(mode="json", exclude={*ONLY_TUNED}) | {"seed": search.run_seeds[0]}


def _dimension(dimension: Dimension) -> dict[str, Any]:
    return {key: value for key, value in asdict(dimension).items() if key != "tied" or value}


def _flat(value: Any, at: str = "") -> list[tuple[str, Any]]:
    if isinstance(value, Mapping):
        return [pair for key, item in value.items() for pair in _flat(item, f"{at}.{key}" if at else str(key))]
    return [(at, value)]
