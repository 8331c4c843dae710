"""`data prepare`: converts a dataset in files to a prepared cache, shard by shard on Ray; resumable at any time.

A shard is complete or absent. Its name identifies its content, and a small file beside it holds its part of the index:
after an interruption, a full disk or a corrected file, the same command makes only the missing shards. The manifest is
written last; until then the folder is not a cache, or is still the previous one, since shards are never overwritten.
"""

import fcntl
import hashlib
import json
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import pyarrow as pa
import ray

from harness.datasets import cache, decode
from harness.datasets.cache import Format, Manifest, Shard
from harness.datasets.index import examine
from harness.datasets.source import OFFICIAL, Sample, Source, require_none, tables_sha256
from harness.datasets.tree import Tree
from harness.errors import BadFiles
from harness.execution.connection import connected
from harness.experiment.resources import Resources
from harness.files import sweep, write_atomic

PAIRS = 64
"""Pairs per shard: half a gigabyte of raw Cityscapes, so that an interruption loses only seconds of work."""
END_SECONDS = 60  # for a worker that is cancelled: it may be in one slow read
Progress = Callable[[int, int], None]


@dataclass(frozen=True)
class Task:
    """One shard to be made."""

    file: str
    split: str
    samples: tuple[Sample, ...]
    plan: str


def prepare(
    source: Source,
    root: Path,
    to: Path,
    variant: dict[str, Any],
    short_side: int | None = None,
    how: Format = "raw",
    on_progress: Progress = lambda done, total: None,
) -> Manifest:
    """Make (or complete) the prepared cache of a dataset.

    Args:
        source: the dataset.
        root: its folder.
        to: the cache's folder; made if it does not exist.
        variant: the dataset's own parameters, as `source.listing` takes them.
        short_side: larger pairs are resized to this many pixels on their shorter side; None: no pair is resized.
        how: `raw` stores pixels, `encoded` the image files as they are.
        on_progress: called with the number of pairs done and the total.

    Raises:
        ValueError: files are missing or wrong (the first 20 are named), or `to` is another cache. Nothing is lost.
        OSError: the disk is full; complete shards are kept.
    """
    tree = Tree(root)
    if cache.is_cache(root):
        raise ValueError(f"{root} is already a prepared cache; give the dataset's own folder")
    _ours(source, to)
    listing = source.listing(tree, **variant)
    if listing.unlabelled:
        raise ValueError(f"{root}: a prepared cache has no unlabelled images; use the folder itself, or leave them out")
    require_none(source, root, listing.problems)
    tasks = list(shard_tasks(source, tree, listing.samples, variant, short_side, how))
    if not tasks:
        raise ValueError(f"{root}: contains no pairs of {source.name}. Layout:\n{source.layout}")
    with _alone(to):
        return _prepare(source, root, to, variant, short_side, how, tasks, on_progress)


def _prepare(
    source: Source,
    root: Path,
    to: Path,
    variant: dict[str, Any],
    short_side: int | None,
    how: Format,
    tasks: Sequence[Task],
    on_progress: Progress,
) -> Manifest:
    made = {task.file: found for task in tasks if (found := _finished(to, task)) is not None}
    total = sum(len(task.samples) for task in tasks)
    done = sum(shard.rows for shard, _ in made.values())
    on_progress(done, total)
    waiting = [task for task in tasks if task.file not in made]
    problems: list[str] = []
    if waiting:
        with connected(Resources()):
            for task, answer in _answers(waiting, source, root, to, short_side, how):
                if isinstance(answer, list):
                    problems += answer
                else:
                    made[task.file] = answer
                    done += len(task.samples)
                    on_progress(done, total)
    require_none(source, root, problems)
    return complete(source, to, variant, short_side, how, [made[task.file] for task in tasks])


def complete(
    source: Source,
    to: Path,
    variant: dict[str, Any],
    short_side: int | None,
    how: Format,
    made: Sequence[tuple[Shard, Any]],
) -> Manifest:
    """Make a cache from its shards, each with its rows of the index, and delete shards of an earlier cache."""
    manifest = cache.write_manifest(
        to,
        pa.concat_tables(lines for _, lines in made),
        name=source.name,
        variant=variant,
        short_side=short_side,
        format=how,
        class_names=source.class_names,
        palette=source.palette,
        tables_sha256=tables_sha256(source),
        shards=tuple(shard for shard, _ in made),
    )
    keep = {Path(shard.file).stem for shard in manifest.shards}
    for path in (to / "shards").iterdir():
        if path.stem not in keep:
            path.unlink()
    return manifest


def _ours(source: Source, to: Path) -> None:
    """Raise ValueError if the folder is another dataset's cache or contains other files."""
    if cache.is_cache(to) and (name := cache.read_manifest(to).name) != source.name:
        raise ValueError(f"{to} is a cache of {name}; choose another folder")
    if to.is_dir() and not cache.is_cache(to):
        others = sorted(e.name for e in to.iterdir() if e.name not in ("shards", cache.INDEX) and e.name[0] != ".")
        if others:
            raise ValueError(
                f"{to} contains other files ({others[0]}); choose an empty folder, or one that does not exist"
            )


@contextmanager
def _alone(to: Path) -> Iterator[None]:
    """One process at a time: the lock ends with the process."""
    (to / "shards").mkdir(parents=True, exist_ok=True)
    with open(to / ".lock", "a") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise ValueError(
                f"{to}: another `data prepare` is running there; wait for it, or choose another folder"
            ) from None
        sweep(to / "shards", alone=True)
        yield


def shard_tasks(
    source: Source, tree: Tree, samples: Any, variant: dict[str, Any], short_side: int | None, how: Format
) -> Iterator[Task]:
    """The shards of a dataset; a plan identifies everything that determines its content."""
    common = f"{cache.VERSION} {source.name} {tables_sha256(source)} {cache.variant_text(variant)} {short_side} {how}"
    for split in OFFICIAL:
        everything = samples.get(split, [])
        for number, first in enumerate(range(0, len(everything), PAIRS)):
            part = tuple(everything[first : first + PAIRS])
            digest = hashlib.sha256(common.encode())
            for sample in part:
                digest.update(f"\0{sample}".encode())
                for name in (sample.image, str(sample.label)):
                    status = tree.file(name).stat()
                    digest.update(f"\0{status.st_size} {status.st_ctime_ns}".encode())
            plan = digest.hexdigest()
            yield Task(f"shards/{split}-{number:05d}-{plan[:12]}.arrow", split, part, plan)


def _finished(to: Path, task: Task) -> tuple[Shard, Any] | None:
    """The shard and its rows of the index, if it was made by the same plan and is complete."""
    note = _note(to, task.file)
    try:
        kept = json.loads(note.read_text())
        shard = Shard.model_validate(kept["shard"])
        lines = pa.ipc.open_stream(bytes.fromhex(kept["index"])).read_all()
        known = (shard.file, shard.plan, shard.rows) == (task.file, task.plan, len(task.samples))
        known = known and lines.schema.equals(cache.INDEX_SCHEMA)  # an earlier version's lacks columns
        whole = known and (to / task.file).stat().st_size == shard.bytes
    except (OSError, ValueError, KeyError, TypeError, pa.ArrowInvalid):
        return None  # absent or partially written: made again
    return (shard, lines) if whole else None


def _note(to: Path, file: str) -> Path:
    """The small file that records what a shard was made of."""
    return (to / file).with_suffix(".json")


def _answers(
    waiting: Sequence[Task], source: Source, root: Path, to: Path, short_side: int | None, how: Format
) -> Iterator[tuple[Task, Any]]:
    """Each task with its shard and index rows, or with the list of problems, as they end."""
    make = ray.remote(num_cpus=1, max_retries=2)(make_shard)
    known = ray.put(source)
    left = list(waiting)
    running: dict[Any, Task] = {}
    most = max(1, int(ray.cluster_resources().get("CPU", 1)))
    try:
        while left or running:
            while left and len(running) < most:
                task = left.pop(0)
                running[make.remote(known, root.absolute(), to.absolute(), task, short_side, how)] = task
            (future,), _ = ray.wait(list(running), num_returns=1)
            task = running.pop(future)
            yield task, _answer(future, to)
    finally:
        # Who holds the folder's lock next finds nobody writing there.
        for future in running:
            ray.cancel(future)
        if running:
            ray.wait(list(running), num_returns=len(running), timeout=END_SECONDS)


def _answer(future: Any, to: Path) -> Any:
    """What `make_shard` returned; a full disk and a worker that dies each time as OSError."""
    try:
        return ray.get(future)
    except ray.exceptions.RayError as error:
        cause = getattr(error, "cause", None)
        if isinstance(error, ray.exceptions.RayTaskError) and not isinstance(cause, OSError):
            raise
        what = cause or f"a worker died repeatedly ({' '.join(str(error).split())[:200]})"
        raise OSError(f"{what}; the complete shards in {to} are kept; re-run the same command to resume") from None


def make_shard(source: Source, root: Path, to: Path, task: Task, short_side: int | None, how: Format) -> Any:
    """Make one shard; or return the problems (then nothing is written)."""
    cv2.setNumThreads(0)
    tree, entries, problems = Tree(root), [], []

    def pairs() -> Iterator[tuple[bytes, Any, Any]]:
        for sample in task.samples:
            try:
                pair = examine(source, tree, sample)
            except (ValueError, OSError) as error:
                problems.append(str(error))
                continue
            entries.append(pair.entry)
            small, label = decode.shrink(pair.image, pair.label, short_side)
            assert label is not None
            keeps = how == "raw" or small.shape != pair.image.shape
            if not problems:
                yield pair.encoded, small if keeps else None, label
        if problems:
            raise BadFiles  # discards what was written of the shard

    try:
        size, digest = cache.write_shard(to / task.file, pairs(), how)
    except BadFiles:
        return problems
    shard = Shard(file=task.file, split=task.split, rows=len(entries), bytes=size, sha256=digest, plan=task.plan)
    lines = cache.index_table(task.split, task.samples, entries)
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, lines.schema) as writer:
        writer.write_table(lines)
    kept = {"shard": shard.model_dump(), "index": sink.getvalue().to_pybytes().hex()}
    write_atomic(_note(to, task.file), json.dumps(kept))
    return shard, lines
