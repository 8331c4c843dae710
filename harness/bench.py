"""An experiment and its results folder: what there is to do, doing it, and the table that comes of it.

>>> import harness
>>> bench = harness.Bench(harness.load("experiments/quickstart.yaml"), "results")
>>> len(bench.runs())  # before steps are timed
21
"""

import os
from collections.abc import Callable, Collection, Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from harness.experiment import rules
from harness.experiment.plan import outline, plan, timing_runs
from harness.experiment.resources import Resources
from harness.experiment.spec import Experiment, Run, found_or_named, unfound
from harness.results import paths, reuse, step_times, store

if TYPE_CHECKING:
    from harness.analysis.across import Across
    from harness.analysis.exports import ExportTable
    from harness.analysis.tables import Table
    from harness.execution.status import Status
    from harness.search.outcome import Outcome
    from harness.search.status import TrialUpdate

OnUpdate = Callable[["Status"], None]
OnTrial = Callable[["TrialUpdate"], None]
_NOT_COMPARED = {"samples", "curve", "gradients", "dev_confusion", "dev_boundary_confusion"}


def _silent(status: object) -> None:
    pass


class Bench:
    """An experiment and its results folder.

    Args:
        experiment: what `harness.load` returns.
        results: folder of all results; the experiment's own is `<results>/<experiment.name>`.
        file: the experiment file, for the commands that messages name; `experiments/<name>.yaml` when not given.

    Attributes:
        directory: the experiment's results folder. It is made by the first run.

    Example:
        >>> import harness
        >>> experiment = harness.load("experiments/quickstart.yaml", ["train.steps=20"])
        >>> bench = harness.Bench(experiment, "results")
        >>> bench.run(on_update=lambda status: print(dict(status.counts)))  # doctest: +SKIP
        >>> print(bench.table().to_markdown())  # doctest: +SKIP
    """

    def __init__(self, experiment: Experiment, results: str | Path = "results", file: str | Path | None = None) -> None:
        if not isinstance(experiment, Experiment):
            raise ValueError(
                f"experiment is {type(experiment).__name__}; an Experiment is needed: harness.load(FILE) reads one"
            )
        self._given, self._resolved = experiment, None if unfound(experiment) else experiment
        self.directory = Path(results) / experiment.name
        self.file = str(file or f"experiments/{experiment.name}.yaml")

    def __repr__(self) -> str:
        return f"Bench({self._given.name!r}, {str(self.directory)!r})"

    @property
    def experiment(self) -> Experiment:
        """As given, with the files of published weights; a ValueError says how those that are not here come here."""
        return found_or_named(lambda: self.fetch_weights(fetch=False), self._given)

    def fetch_weights(self, say: Callable[[str], None] = _silent, fetch: bool = True) -> Experiment:
        """The experiment with its weights' files; a missing one is fetched and said, or is a ValueError."""
        if self._resolved is None:
            from harness.models import pretrained  # torch and timm: seconds

            self._resolved = pretrained.resolved(self._given, fetch, say)
        return self._resolved

    def runs(self) -> list[Run]:
        """All runs of the experiment, teachers first.

        With a search they have the best point of each method; with a budget of seconds, the steps that fit it; with one
        of steps the longer student is among them once steps are timed.

        Raises:
            ValueError: the search is not complete, or of a budget in seconds steps have not been timed yet.
        """
        self._require_current(paths.times_folder(self.directory), step_times.ids(self.experiment))
        experiment, times = step_times.known(self.experiment, self.directory, self.file)
        return plan(experiment, self._points(), times)

    def _asked(self) -> dict[Path, Collection[str] | None]:
        """Folders of rows, and which of their rows the experiment asks for as far as that is known."""
        try:
            own = self.runs()
        except ValueError:  # a search or step times are not complete, or stale
            own = outline(self.experiment)
        return {
            paths.search_folder(self.directory): None,  # it holds one search only
            paths.times_folder(self.directory): step_times.ids(self.experiment),
            self.directory: [run.run_id for run in own],
        }

    def pending(self, retry_failed: bool = False) -> list[Run]:
        """The runs that have not finished, timing runs last; with `retry_failed` failed ones too. Errors as `runs`."""
        timing = step_times.missing(self.experiment, self.directory)
        return reuse.pending(self.runs(), self.standings(), retry_failed) + timing

    def states(self) -> dict[str, str]:
        """By run_id: "ok", "failed", "waiting" without a row, or "stale". Errors as `runs`, but for step times.

        Before steps are timed, the runs are those of the plan without step times. The row of a stale run was made from
        other data, another teacher, or other source files of a method from outside.
        """
        ready = step_times.timed(self.experiment, self.directory)
        return reuse.states(self.runs() if ready else outline(self.experiment), self.standings())

    def standings(self) -> dict[str, reuse.Standing]:
        """By run_id: what each row in the folder is worth today, and why."""
        return reuse.standings(self.directory, None, self.data_hash)

    def require_current(self) -> None:
        """Look whether the rows here, those of the search and of step times too, are of today's content.

        Raises:
            ValueError: some are not; names them, with both digests and the remedies.
        """
        for folder, ids in self._asked().items():
            self._require_current(folder, ids)

    def data_hash(self) -> str | None:
        """The content of the data as it is now; None where it is not on this machine.

        Raises:
            ValueError: the data is incomplete, or files are invalid.
        """
        from harness.datasets.content import content_here

        return content_here(self.experiment.data)

    def run(
        self, on_update: OnUpdate = _silent, retry_failed: bool = False, rerun_changed: bool = False
    ) -> dict[str, str]:
        """Run all pending runs, as `sstkd-bench run` does, on this machine or on the cluster that `resources` names.

        A KeyboardInterrupt stops the runs at once and is raised; the next call resumes them from their checkpoints.

        Args:
            on_update: called with a `Status` about twice a second, and whenever a run has ended.
            retry_failed: run failed runs again.
            rerun_changed: run anew what was made from other data, another teacher, other source files of a method from
                outside, or other code of this package; the rows there are move to the folder `replaced`.

        Returns:
            "ok" or "failed" by run_id.

        Raises:
            ValueError: the search is not complete, a network cannot be built, a method does not apply to its pair, a
                logger is not installed, the cluster cannot be reached or is too small, or rows are stale.
            OSError: the disk is full, the folder cannot be written, or the storage does not answer.
        """
        self.fetch_weights()
        if rerun_changed:
            self._set_aside()
        self._points()  # before anything is trained
        self._time_steps(on_update, retry_failed)
        runs = self.runs()
        found = self._require_current(self.directory, [run.run_id for run in runs])
        if pending := reuse.pending(runs, found, retry_failed):
            self.require_ready(pending, full=True)  # a finished run needs nothing any more
            self._launch(runs, self.experiment.resources, self.directory, on_update, retry_failed)
        return reuse.states(runs, self.standings())

    def tune(self, on_update: OnUpdate = _silent, on_trial: OnTrial = _silent) -> "list[Outcome]":
        """Search each method's hyper-parameters, as `sstkd-bench tune` does, and write the best points.

        Args:
            on_update: as for `run`; with an algorithm, until the first trial begins.
            on_trial: called when a trial begins and when it has ended.

        Returns:
            What the search found, a method of a pair each; `best` is None where no trial has finished.

        Raises:
            ValueError: the experiment has no search, the folder has another one; and as `run`.
            OSError: as `run`.
        """
        from harness.experiment.studies import studies_of
        from harness.search import outcome

        self.fetch_weights()
        self._require_current(paths.search_folder(self.directory), None)
        found = outcome.outcomes(self.experiment, self.directory)
        if not all(each.complete for each in found):
            studies = studies_of(self.experiment)
            needed = {s.template.teacher_run for s in studies if s.template.method.needs_teacher}
            self._train_first(needed, on_update, False)
            from harness.search.tuner import search  # torch and ray: seconds

            search(self.experiment, self.directory.absolute(), on_trial, on_update, self._judge)
            found = outcome.outcomes(self.experiment, self.directory)
        outcome.write(found, self.directory)
        return found

    def table(self, keep_stale: bool = False) -> "Table":
        """The comparison of the methods, from the finished runs.

        Args:
            keep_stale: show stale rows (`states`) in blocks of their own, marked; otherwise they are an error.

        Raises:
            ValueError: no results yet, stale rows, or rows that must not be compared; and as `runs`.
        """
        return self._compared([run.run_id for run in self.runs()], keep_stale)[0]

    def write_report(self, rewrite: bool = True, keep_stale: bool = False) -> "Table":
        """Write the table, the curves and the HTML page into `directory`.

        Args:
            rewrite: also where they are there already; without it a folder that cannot be written is left as it is.
            keep_stale: as for `table`.

        Returns:
            The comparison.

        Raises:
            ValueError: as `table`.
            OSError: the disk is full or cannot be written.
        """
        from harness.report.write import write_report

        compared = self._compared(ids := [run.run_id for run in self.runs()], keep_stale)
        if rewrite or (not (self.directory / "report.html").is_file() and os.access(self.directory, os.W_OK)):
            of = self.experiment
            write_report(self.directory, rules.labels(of), of.seeds, ids, self.file, compared, of)
        return compared[0]

    def rows(self, columns: Sequence[str]) -> Any:
        """Columns of the experiment's own rows, as a pyarrow Table.

        Raises:
            ValueError: there are none yet, or some are stale; and as `runs`.
        """
        self._require_current(self.directory, [run.run_id for run in self.runs()])
        read = store.read_rows(self.directory, list(columns), run_ids=[run.run_id for run in self.runs()])
        self._require_results(bool(read.num_rows))
        return read

    def require_ready(self, runs: Sequence[Run], full: bool = False) -> None:
        """Look for what would end the runs; with `full` in files too that seem unchanged since they were read.

        Raises:
            ValueError: a logger is not installed, or a rule on the data or of `harness.training.gate` is broken.
        """
        from harness.datasets.content import content_here
        from harness.execution import loggers

        loggers.require(self.experiment.resources.loggers)
        if runs:
            content_here(self.fetch_weights(fetch=False).data, full)
            from harness.training import gate  # torch and timm: seconds

            gate.require(runs, self.experiment.resources, self.directory)

    def _points(self) -> Any:
        """The best point of every method, or None without a search."""
        if self.experiment.search is None:
            return None
        from harness.search import outcome

        self._require_current(paths.search_folder(self.directory), None)
        return outcome.found(self.experiment, self.directory, self.file)

    def _require_results(self, found: bool) -> None:
        if not found:
            other = reuse.of_other_runs(self.directory, self.experiment.protocol.version)
            raise ValueError(f"{self.directory}: no results yet{other}. Run it first: sstkd-bench run {self.file}")

    def _require_current(self, directory: Path, ids: Collection[str] | None) -> dict[str, reuse.Standing]:
        """What the rows of a folder are worth; an error if some are stale."""
        if not directory.is_dir():
            return {}
        found = reuse.standings(directory, ids, self.data_hash, weights=("teacher",))
        reuse.require_current(found, directory, self.file)
        return found

    def _set_aside(self) -> None:
        """Move rows of other content or code away, those of the search and of step times too."""
        if self.experiment.resources.storage is not None:
            raise ValueError(
                "--rerun-changed: resources.storage holds the rows too. Give another storage, or another name"
            )
        for folder, ids in self._asked().items():
            if folder.is_dir():
                found = reuse.standings(folder, ids, self.data_hash, weights=("teacher",))
                reuse.set_aside(folder, [i for i, x in found.items() if x.state == "stale" or x.code == "other"])

    def _compared(self, ids: Collection[str], keep_stale: bool = False) -> "tuple[Table, int]":
        """The table of these runs, and of how many rows it is."""
        from harness.report.write import table_of, with_search

        self._require_results(not store.finished(self.directory).keys().isdisjoint(ids))
        data = self.data_hash()
        found = reuse.standings(self.directory, ids, lambda: data)
        if not keep_stale:
            reuse.require_current(found, self.directory, self.file)
        table = table_of(
            self.directory,
            rules.labels(self.experiment),
            self.experiment.seeds,
            ids,
            {run_id: x.reasons for run_id, x in found.items() if x.state == "stale"},
            reuse.remarks(found, self.directory, data),
        )
        return with_search(table, self.experiment, self.directory)

    def _train_first(self, wanted: Collection[str | None], on_update: OnUpdate, retry_failed: bool) -> list[Run]:
        """Train the runs `wanted`, from which others are planned, if a teacher is pending; the teachers among them."""
        self.require_ready(runs := outline(self.experiment), full=True)
        first = [run for run in runs if run.run_id in wanted]
        found = self._require_current(self.directory, [run.run_id for run in first])
        teachers = [run for run in first if run.role == "teacher"]
        if pending := reuse.pending(teachers, found, retry_failed):
            if all(run.checkpoint is not None for run in pending):
                first = teachers  # they are there in a moment
            self._launch(first, self.experiment.resources, self.directory, on_update, retry_failed)
        return teachers

    def _time_steps(self, on_update: OnUpdate, retry_failed: bool) -> None:
        """Where runs follow from step times: time a step of every method, after its teacher has been trained."""
        if not rules.needs_times(self.experiment):
            return
        folder, runs = paths.times_folder(self.directory).absolute(), timing_runs(self.experiment)
        found = self._require_current(folder, [run.run_id for run in runs])
        if not reuse.pending(runs, found, retry_failed):
            return
        needed = {run.teacher_run for run in runs if run.method.needs_teacher}
        needed |= step_times.beside_teachers(self.experiment)
        teachers = self._train_first(needed, on_update, retry_failed)
        from harness.execution.workspace import Workspace, below, copy_teacher

        resources = below(self.experiment.resources.of_timing, self.directory.name)
        source, target = Workspace(self.directory.absolute(), self.experiment.resources), Workspace(folder, resources)
        for run in teachers:
            copy_teacher(run.run_id, self.directory, source, folder, target)
        self._launch([*teachers, *runs], resources, folder, on_update, retry_failed)
        step_times.times(self.experiment, self.directory, self.file)  # an error where a teacher has failed

    def _launch(
        self, runs: Sequence[Run], resources: Resources, directory: Path, on_update: OnUpdate, retry_failed: bool
    ) -> None:
        directory.mkdir(parents=True, exist_ok=True)
        if not os.access(directory, os.W_OK):  # better said now than after the training
            raise PermissionError(f"{directory} cannot be written; choose another --results folder")
        from harness.execution import launcher  # torch and ray: seconds

        launcher.run_all(runs, resources, directory, on_update, retry_failed, self._judge)

    def _judge(self, directory: Path, ids: Collection[str] | None) -> dict[str, str]:
        """The states of runs for who may have fetched rows since; an error if some are stale."""
        return {run_id: x.state for run_id, x in self._require_current(directory, ids).items()}


def compare(benches: Iterable[Bench]) -> "Across":
    """Methods over all pairs and datasets of several experiments: gains, ranks, profiles.

    Raises:
        ValueError: no results yet, rows or experiments that must not be compared, or no baseline.

    Example:
        >>> import harness
        >>> bench = harness.Bench(harness.load("experiments/quickstart.yaml"), "results/examples")
        >>> harness.compare([bench]).methods
        ('none', 'kd', 'none at equal seconds', 'cwd', 'sstkd')
    """
    return compared(benches)[0]


def compared(benches: Iterable[Bench]) -> "tuple[Across, dict[str, dict[str, Any]], list[ExportTable]]":
    """As `compare`; all rows of its runs by run_id, as `compact_rows` gives them, without what no comparison shows; the
    tables of exports, where a corrupt row is a ValueError too."""
    from harness.analysis import across, comparison, exports
    from harness.analysis.compact import compact_rows

    if isinstance(benches, Bench):
        raise ValueError("to compare: one Bench given; a list of them is needed: compare([bench])")
    columns = [name for name in store.SCHEMA.names if name not in _NOT_COMPARED]
    tables, rows, exported = [], dict[str, dict[str, Any]](), list[exports.ExportTable]()
    for bench in benches:
        if not isinstance(bench, Bench):
            raise ValueError(f"to compare: {type(bench).__name__} given; a list of Bench is needed")
        read = bench.rows(comparison.COLUMNS)
        tables.append(comparison.quick_table(read, rules.labels(bench.experiment), bench.experiment.seeds))
        found = compact_rows(bench.directory, columns, read["run_id"].to_pylist())
        rows |= {row["run_id"]: row for row in found}
        exported += exports.read(bench.directory, tables[-1]).tables
    return across.across(tables), rows, exported
