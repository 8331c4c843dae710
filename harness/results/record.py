"""Write a run's row: its description, what was measured, or why it failed."""

import errno
import json
import platform
from collections.abc import Mapping
from datetime import datetime, timezone
from pathlib import Path
from typing import Any, TypeGuard

from harness.borders import without_secrets
from harness.experiment.spec import Run
from harness.results import failures, store
from harness.results.provenance import code_version, versions


def write_row(
    run: Run,
    directory: Path,
    columns: Mapping[str, Any],
    status: str = "ok",
    message: str = "",
    started_at: datetime | None = None,
) -> bool:
    """Write the run's row; False if there is an ok row already."""
    now = datetime.now(timezone.utc)
    row = {
        **_described(run),
        "status": status,
        "message": without_secrets(message),
        "started_at": started_at or now,
        "finished_at": now,
        **columns,
    }
    return store.write_run(directory, row)


def failure(error: BaseException, run: Run | None = None) -> str:
    """An error as one paragraph for the row: what happened, and where in whose code."""
    return failures.message(error, run)


def is_disk_full(error: object) -> TypeGuard[OSError]:
    """Whether the error means that no row can be written either."""
    return isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS)


def _described(run: Run) -> dict[str, Any]:
    """Columns that follow from the run's spec and the installed packages."""

    def text(value: Any) -> str:
        return json.dumps(value, sort_keys=True)

    spec = run.model_dump(mode="json")
    for named in filter(None, (spec["network"], spec["teacher"], spec)):
        for weights in filter(None, (named.get("encoder_weights"), named.get("checkpoint"))):
            if "source" in weights:
                # Where published weights lie on this machine helps nobody, and may name a home.
                weights["path"] = ""
    # The row's teacher is the one with `seed`; `seeds` are all teachers of the pair.
    teacher = {key: value for key, value in (spec["teacher"] or {}).items() if key != "seeds"}
    return {
        "run_id": run.run_id,
        "experiment": run.experiment,
        "role": run.role,
        "method": run.method.name,
        "caveat": run.method.caveat,
        "method_parameters": text(spec["method"]["parameters"]),
        "seed": run.seed,
        "ruleset": run.protocol.ruleset,
        "protocol_version": run.protocol.version,
        "budget_unit": run.budget.unit,
        "budget_amount": float(run.train.steps if run.budget.seconds is None else run.budget.seconds),
        "budget_step_ms": None if run.step_time is None else run.step_time.ms,
        "control": run.control,
        "steps": 0 if run.checkpoint is not None else run.train.steps,
        "pair": run.pair,
        "teacher_network": text(teacher or spec["network"]),
        "student_network": text(spec["network"]),
        "teacher_run_id": run.teacher_run,
        "dataset": run.data.name,
        "dataset_parameters": text(spec["data"]["parameters"]),
        "ignore_index": 255,
        "absent_policy": run.protocol.absent_policy,
        "recipe": text(spec["train"]),
        "overrides": list(run.overrides),
        "device": "unknown",
        "workers": 1,
        "threads": 1,
        "precision": run.train.precision,
        "resumed": 0,
        "code_version": code_version(),
        "versions": {"python": platform.python_version(), "platform": platform.platform(), **versions()},
        "spec": text(spec),
        **_searched(run),
    }


def _searched(run: Run) -> dict[str, Any]:
    """Columns of a trial, and of a run with the best point of a search."""
    columns: dict[str, Any] = {}
    if run.trial is not None:
        columns |= {"trial": run.trial.number, "trial_method": run.trial.method}
    if run.source is not None:
        columns |= {f"search_{name}": value for name, value in run.source.model_dump().items()}
    return columns
