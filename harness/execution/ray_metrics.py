"""A run's progress as Ray gauges, which each node's metrics agent exports to Prometheus and so to the dashboard."""

import math

from harness.experiment.spec import Run
from harness.training.progress import Progress

TAGS = ("experiment", "run_id", "pair", "method", "seed")
GONE = math.nan  # Ray cannot remove a series, but its agents skip values that are not finite


class Gauges:
    """The gauges of one run, for a process that Ray started; called with each progress.

    They are `ray_sstkd_bench_step`, `_loss` (by `term`), `_dev_miou` (in [0, 1]), `_step_seconds`, `_memory_mb` at the
    port `MetricsExportPort` of the process's node, after Ray's next report (ten seconds unless configured otherwise).
    The series end with the run's last report, or when the process dies.

    Args:
        run: that reports.
    """

    def __init__(self, run: Run) -> None:
        from ray.util.metrics import Gauge

        method = "teacher" if run.role == "teacher" else run.label
        values = (run.experiment, run.run_id, run.pair, method, str(run.seed))
        self._tags = dict(zip(TAGS, values, strict=True))
        self._gauges = {
            name: Gauge(f"sstkd_bench_{name}", text, (*TAGS, *more))
            for name, text, more in (
                ("step", "Training steps done.", ()),
                ("loss", "Mean of a term of the loss since the last report.", ("term",)),
                ("dev_miou", "mIoU on the dev split at the last evaluation, in [0, 1].", ()),
                ("step_seconds", "Median seconds of a training step.", ()),
                ("memory_mb", "MiB allocated on the CUDA device, else resident in the process.", ()),
            )
        }
        self._shown: dict[str, set[str]] = {name: set() for name in self._gauges}  # terms by gauge

    def __call__(self, progress: Progress) -> None:
        """Show the numbers of a report; the last one (`ended`) ends the series."""
        self._set("step", progress.step)
        for term, value in (progress.terms or {}).items():
            self._set("loss", value, term)
        self._set("dev_miou", progress.dev_miou)
        self._set("step_seconds", None if progress.step_ms is None else progress.step_ms / 1e3)
        self._set("memory_mb", (progress.device or {}).get("memory_mb"))
        if progress.ended is not None:
            for name, terms in self._shown.items():
                for term in sorted(terms):
                    self._set(name, GONE, term)

    def _set(self, name: str, value: float | None, term: str = "") -> None:
        if value is not None:
            self._shown[name].add(term)
            self._gauges[name].set(float(value), {**self._tags, **({"term": term} if term else {})})
