"""The teachers of a pair: which row taught which students, and what runs of one line are told apart by.

With one teacher that is the seed. With several it is the teacher's seed too, but for the student without distillation
and other lines that no teacher has a part in: these are shared by all teachers.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from harness.analysis.arrays import BySeed, Runs
from harness.analysis.comparable import Setting, refuse_taught, refuse_teacher
from harness.analysis.tables import Teacher

Key = int | tuple[int, int]
"""A seed, or (seed of the teacher, seed)."""


@dataclass(frozen=True)
class Crossing:
    """Which teachers and seeds there are, where a pair has several teachers.

    Attributes:
        seeds_of: by run_id of the teachers their seeds, ascending; empty where there is one teacher.
    """

    seeds_of: Mapping[str, int]

    @property
    def teachers(self) -> tuple[int, ...]:
        """The teachers' seeds."""
        return tuple(self.seeds_of.values())

    def shared(self, name: str, rows: Sequence[Setting]) -> bool:
        """Whether all teachers share the runs of a method: no teacher had a part in them."""
        done = [s for s in rows if s.status == "ok"]
        return name == "none" or (bool(done) and all(s.teacher_sha256 is None for s in done))

    def keys(self, runs: Runs[Setting], rows: Sequence[Setting], shared: bool) -> list[Key]:
        """What tells these rows apart, in the order of `runs.places(rows)`."""
        places = runs.places(rows)
        seeds = runs.own["seed"][places].tolist()
        if shared or not self.seeds_of:
            return list(seeds)
        of = {int(place): self.seeds_of[str(s.teacher_run_id)] for s in rows for place in s.places}
        return [(of[int(place)], seed) for place, seed in zip(places, seeds, strict=True)]

    def expected(self, seeds: Sequence[int], shared: bool) -> list[Key]:
        """What runs there should be of a line."""
        if shared or not self.seeds_of:
            return list(seeds)
        return [(teacher, seed) for seed in seeds for teacher in self.teachers]

    def grid(self, values: Mapping[Key, float], seeds: Sequence[int]) -> NDArray[np.float64]:
        """The values of a line, (teachers, seeds), nan where there is none; (1, seeds) of a line that is shared."""
        alone = all(isinstance(key, int) for key in values) and bool(values)
        rows: Mapping[Any, int] = {} if alone else {seed: i for i, seed in enumerate(self.teachers)}
        columns = {seed: i for i, seed in enumerate(seeds)}
        out = np.full((max(1, len(rows)), len(columns)), np.nan)
        for key, value in values.items():
            teacher, seed = key if isinstance(key, tuple) else (None, key)
            out[rows.get(teacher, 0), columns[seed]] = value
        return out


def mapping(keys: Sequence[Key], values: NDArray[Any]) -> Mapping[Any, Any]:
    """The values by key; by seed as two arrays."""
    if any(isinstance(key, tuple) for key in keys):
        return dict(zip(keys, values.tolist(), strict=True))
    return BySeed(np.array(keys, dtype=np.int64), values)


def partner(key: Key, there: Mapping[Any, Any] | set[Any]) -> Key | None:
    """The key of `there` that is compared with `key`: the same, or its seed where the other line is shared."""
    by_seed = isinstance(there, BySeed) and isinstance(key, tuple)
    if not by_seed and key in there:
        return key
    return key[1] if isinstance(key, tuple) and key[1] in there else None


def met(keys: set[Any], there: Mapping[Any, Any]) -> int:
    """How many of the keys have something to be compared with."""
    seeds = {key[1] for key in there if isinstance(key, tuple)}
    return sum(partner(key, there) is not None or key in seeds for key in keys)


def paired(one: Mapping[Any, str], other: Mapping[Any, str]) -> list[tuple[str, str]]:
    """The runs of two lines that are compared, by teacher and seed; a run of a shared line once for each teacher."""
    if any(isinstance(key, tuple) for key in other) and not any(isinstance(key, tuple) for key in one):
        return [(a, b) for b, a in paired(other, one)]
    found = [(key, partner(key, other)) for key in sorted(one)]
    return [(one[key], other[match]) for key, match in found if match is not None]


def seed_of(key: Key) -> int:
    """The student's seed."""
    return key[1] if isinstance(key, tuple) else key


def key_text(key: Key) -> str:
    """E.g. "0", or "teacher 1, seed 0"."""
    return f"teacher {key[0]}, seed {key[1]}" if isinstance(key, tuple) else str(key)


def teachers_of(
    pair: str, rows: Sequence[Setting], teachers: Sequence[tuple[Setting, int]], runs: Runs[Setting]
) -> tuple[tuple[Teacher, ...], Crossing]:
    """The teachers of a pair's students, out of those of all pairs, by their seeds.

    Raises:
        ValueError: students of one teacher name several weights, or several teachers differ in more than their seed.
    """
    wanted = {s.teacher_run_id for s in rows} - {None}
    ids, seeds = runs.own["run_id"], runs.own["seed"]
    found = {str(ids[place]): (s, place) for s, place in teachers if ids[place] in wanted}
    where = f"pair {pair!r}, "
    refuse_taught(rows, {run_id: s for run_id, (s, _) in found.items()}, where)
    for run_id, (setting, place) in found.items():
        taught = [s for s in rows if s.teacher_run_id == run_id] if len(found) > 1 else rows
        if setting.status == "ok":
            refuse_teacher(setting, runs.own["weights_sha256"][place], taught, f"{where}its teacher: ")
    sha256 = next((s.teacher_sha256 for s in rows if s.teacher_sha256 is not None), None)
    if not found and not wanted and sha256 is None:  # No student got as far as its teacher.
        found = dict([(str(ids[place]), (s, place)) for s, place in teachers if s.pair == pair][:1])
    if not found:
        return (Teacher(sha256=sha256),), Crossing({})
    order = sorted(found, key=lambda run_id: seeds[found[run_id][1]])
    shown = tuple(_teacher(found[run_id][0], runs, found[run_id][1], rows) for run_id in order)
    several = len(order) > 1
    return shown, Crossing({run_id: int(seeds[found[run_id][1]]) for run_id in order} if several else {})


def _teacher(setting: Setting, runs: Runs[Setting], place: int, students: Sequence[Setting]) -> Teacher:
    """A teacher's row."""
    own = {name: values[place] for name, values in runs.own.items()}
    miou, dev_miou = (100 * own[f"{split}_miou"] if setting.status == "ok" else None for split in ("val", "dev"))
    sha256 = next((s.teacher_sha256 for s in students if s.teacher_sha256 is not None), None)
    seed = int(own["seed"])
    return Teacher(own["run_id"], setting.status, own["message"], miou, dev_miou, setting.steps, sha256, seed)
