"""An experiment as a job of a running Ray cluster: start it or find it again, follow its log, fetch its rows.

The job is `python -m harness.cli run` on the head node. Its id is derived from the experiment's runs, so that
re-running the command finds a running job instead of starting a second one.
"""

import asyncio
import hashlib
import logging
import os
import re
import shlex
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from harness.borders import one_line
from harness.cluster import package as bundle
from harness.cluster import rows_by_log, secrets
from harness.experiment.plan import foreseen
from harness.experiment.spec import Experiment
from harness.results import store
from harness.results.pull import Pulled, pull
from harness.results.step_times import outlined
from harness.results.storage import Storage
from harness.results.weights import with_digests

RETRY_SECONDS = 2.0
PATIENCE_SECONDS = 300.0
"""How long a cluster may not answer while its job's log is followed."""
LOOPBACK = ("localhost", "127.0.0.1", "::1")


@dataclass(frozen=True)
class Job:
    """The job to submit.

    Attributes:
        file: the experiment file.
        experiment: its content, with paths on the cluster.
        overrides: `key.path=value`.
        results: the results folder on the cluster; `~/` is the home folder there.
        python: the Python interpreter on the cluster.
        names: environment variables to pass to the job, with their local values.
        excludes: patterns of files to leave out of the package.
        includes: patterns of files to send although they look like secrets.
        retry_failed: run failed runs again.
    """

    file: Path
    experiment: Experiment
    overrides: tuple[str, ...]
    results: str
    python: str = "python"
    names: tuple[str, ...] = ()
    excludes: tuple[str, ...] = ()
    includes: tuple[str, ...] = ()
    retry_failed: bool = False

    @property
    def base_id(self) -> str:
        """The experiment's name and a digest of its run_ids, so that only changes that affect results change it."""
        ids = sorted(run.run_id for run in foreseen(self.experiment))
        return f"{self.experiment.name}-{hashlib.sha256(' '.join(ids).encode()).hexdigest()[:8]}"

    @property
    def folder(self) -> str:
        """The experiment's results folder on the cluster."""
        return f"{self.results}/{self.experiment.name}"

    def contents(self) -> bundle.Contents:
        """What is sent of the current folder.

        Raises:
            ValueError: the folder is too large, something to send looks like a secret, or a variable is not set.
        """
        secrets.refuse_secrets_for_a_job(self.file, self.overrides)
        secrets.written(self.names, os.environ)
        return bundle.contents(Path.cwd(), self.excludes, self.includes)

    def package(self, to: Path) -> tuple[Path, str]:
        """Create the job's package below `to`; returns its path and the experiment file's path in it.

        Raises:
            ValueError: as `contents`, or the package is too large.
        """
        sent = self.contents()
        file = self.file.resolve()
        inside = file.is_relative_to(sent.folder)
        name = file.relative_to(sent.folder).as_posix() if inside else f"job/{file.name}"
        extra = {name: self.file.read_bytes()}
        if self.names:
            extra[secrets.FILE] = secrets.written(self.names, os.environ).encode()
        path = to / "package.zip"
        bundle.write_zip(path, sent.folder, sent.names, extra)
        return path, name

    def command(self, name: str) -> str:
        """The shell command of the job; `name` is the experiment file's path in the package."""
        words = ["-m", "harness.cli", "run", name, *override_arguments(self.experiment, self.overrides)]
        if self.retry_failed:
            words.append("--retry-failed")
        before = f". ./{secrets.FILE} && " if self.names else ""
        return f"{before}exec {shell_path(self.python)} {shlex.join(words)} --results {shell_path(self.results)}"


def override_arguments(experiment: Experiment, overrides: Sequence[str]) -> list[str]:
    """The `--set` options of a run on a cluster, which always uses the running Ray."""
    settings = [*overrides, *(["resources.address=auto"] if experiment.resources.address != "auto" else [])]
    return [word for setting in settings for word in ("--set", setting)]


def refuse_lost(results: str) -> None:
    """Refuse a results folder that is deleted together with the job.

    Raises:
        ValueError: the results folder on the cluster is neither absolute nor below the home folder.
    """
    if not results.startswith(("/", "~/")):
        raise ValueError(
            f"--cluster-results {results}: is below the job's own folder, which is deleted with the job; give an "
            "absolute folder or ~/FOLDER. To store rows at a URI, set resources.storage in the file"
        )


def shell_path(path: str) -> str:
    """A path for a shell, in which `~/` stays the home folder."""
    return f"~/{shlex.quote(path[2:])}" if path.startswith("~/") else shlex.quote(path)


def exposed(address: str) -> str | None:
    """A warning if the token would be sent unencrypted to `address`; else None."""
    parts = urlsplit(address)
    if parts.scheme == "https" or parts.hostname in LOOPBACK:
        return None
    return (
        f"{address} is neither this machine nor https: the token, which allows to run code on the cluster, is sent "
        "unencrypted. Better: ssh -N -L 8265:127.0.0.1:8265 HEAD, and --address http://127.0.0.1:8265"
    )


def refuse_address(address: str) -> None:
    """Refuse what is not the address of a dashboard.

    Raises:
        ValueError: another scheme, no host, or no such port.
    """
    try:
        parts = urlsplit(address)
        good = parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
    except ValueError:  # of an address that is no URL, or of its port
        good = False
    if not good or not address.isprintable():
        raise ValueError(f"--address {one_line(address)}: write the dashboard's address, such as http://127.0.0.1:8265")


def connect(address: str) -> Any:
    """Ray's client for jobs, with token authentication unless RAY_AUTH_MODE says otherwise.

    Raises:
        ValueError: the cluster does not answer, or the token is missing or wrong.
    """
    refuse_address(address)
    os.environ.setdefault("RAY_AUTH_MODE", "token")
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    from ray.exceptions import AuthenticationError
    from ray.job_submission import JobSubmissionClient

    try:
        client = JobSubmissionClient(address)
    except (AuthenticationError, RuntimeError) as error:
        said = " ".join(str(error).split())[:200]
        raise ValueError(
            f"--address {address}: the cluster's token is needed. On the head node it is in ~/.ray/auth_token (ray "
            "get-auth-token prints it); put it into ~/.ray/auth_token here, chmod 600. A cluster without "
            f"authentication needs RAY_AUTH_MODE=disabled, and protection by other means. ({said})"
        ) from None
    except OSError as error:
        raise ValueError(
            f"--address {address}: no Ray dashboard answers ({' '.join(str(error).split())[:200]}). On the head node "
            "it listens on port 8265; reach it by: ssh -N -L 8265:127.0.0.1:8265 HEAD"
        ) from None
    for name in ("ray.dashboard.modules.dashboard_sdk", "ray.dashboard.modules.job.sdk", "ray._private"):
        logging.getLogger(name).setLevel(logging.ERROR)  # the client sets up Ray's logging when it is made
    return client


def start(client: Any, job: Job) -> tuple[str, bool]:
    """Start the job, unless it is already pending or running.

    Returns:
        Its id, and whether it was started now.

    Raises:
        ValueError: as `Job.package`.
        OSError: the cluster does not accept it.
    """
    base = job.base_id
    with tempfile.TemporaryDirectory() as folder:
        while True:
            ids = {info.submission_id: info.status for info in client.list_jobs() if info.submission_id}
            taken = {name: n for name in ids if (n := _number(name, base)) is not None}
            for name in taken:
                if not ids[name].is_terminal():
                    return name, False
            number = max(taken.values(), default=0) + 1
            name = base if number == 1 else f"{base}-{number}"
            package, file = job.package(Path(folder))
            runs = len(foreseen(job.experiment))
            try:
                client.submit_job(
                    entrypoint=job.command(file),
                    submission_id=name,
                    runtime_env=_runtime_env(job, package),
                    metadata={"experiment": job.experiment.name, "runs": str(runs)},
                )
            except RuntimeError as error:
                if "already exists" in str(error):  # submitted by someone else in the meantime
                    continue
                raise OSError(_refusal(error)) from None
            return name, True


def _refusal(error: RuntimeError) -> str:
    return f"the cluster does not accept the job: {str(error).strip().rpartition(chr(10))[2]}"


def _number(name: str, base: str) -> int | None:
    """1 for `base`, n for `base-n`, None for another job."""
    match = re.fullmatch(re.escape(base) + r"(?:-([0-9]{1,6}))?", name)
    return int(match[1] or 1) if match else None


def _runtime_env(job: Job, package: Path) -> dict[str, Any]:
    return {"working_dir": str(package)} | ({"worker_process_setup_hook": secrets.HOOK} if job.names else {})


def follow(client: Any, name: str, write: Callable[[str], object]) -> Any:
    """Write a job's log from its beginning, as it grows; returns Ray's JobDetails after the job has ended.

    Raises:
        OSError: the cluster has not answered for `PATIENCE_SECONDS`.
    """
    shown = [0]
    silent = None  # since when; a log may have been followed for hours before its connection broke
    while True:
        broken: Exception | None = None
        try:
            asyncio.run(_tail(client, name, write, shown))
        except (OSError, RuntimeError) as error:  # the connection broke; the job does not need it
            broken = error
        try:
            info = client.get_job_info(name)
            if info.status.is_terminal() and broken is None:
                return info
            ended = info.status.is_terminal()
        except (OSError, RuntimeError) as error:
            broken, ended = error, True
        if broken is None or not ended:  # it answers
            silent = None
        else:
            silent = silent or time.monotonic()
            if time.monotonic() - silent > PATIENCE_SECONDS:
                said = " ".join(str(broken).split())[:200]
                raise OSError(
                    f"{name}: the cluster does not answer any more ({said}); the job may still be running"
                ) from None
        time.sleep(RETRY_SECONDS)


async def _tail(client: Any, name: str, write: Callable[[str], object], shown: list[int]) -> None:
    """One connection to a job's log. Ray sends it from the beginning; `shown` characters were already written."""
    seen = 0
    async for text in client.tail_job_logs(name):
        seen += len(text)
        if seen > shown[0]:
            write(text[len(text) - (seen - shown[0]) :])
            shown[0] = seen


def exit_code(info: Any) -> int:
    """0 if the job succeeded, 2 if the run ended with a usage error, else 1."""
    if str(info.status.value) == "SUCCEEDED":
        return 0
    return 2 if info.driver_exit_code == 2 else 1


def fetch_rows(client: Any, job: Job, directory: Path) -> Pulled | None:
    """Fetch the experiment's rows into a local results folder; None if the cluster wrote all of them there itself.

    They are fetched from `resources.storage` if it is accessible from here, else from the head node through the job
    server. A local folder counts as the cluster's only if it has the rows.

    Raises:
        ValueError: rows are missing, corrupt, contradict each other, or are too large for the job server.
        OSError: the cluster or the storage does not answer, or there are no rows.
    """
    storage = job.experiment.resources.storage
    if storage is not None:
        source = Storage(storage).below(job.experiment.name)
        if source.folder is None or (source.folder / "runs").is_dir():
            return pull(source, directory)
    there = Path(job.folder).expanduser()
    if there.is_dir() and directory.is_dir() and there.samefile(directory):
        runs, unknown = outlined(with_digests(job.experiment, directory), directory, job.experiment.name, {})
        # Without the step times that runs follow from, only the cluster knows their run_ids.
        if not unknown and {run.run_id for run in runs} <= store.finished(directory).keys():
            return None
    with tempfile.TemporaryDirectory() as folder:
        package, _ = replace(job, names=()).package(Path(folder))
        try:
            name = client.submit_job(
                entrypoint=f"exec {shell_path(job.python)} -m harness.cluster.rows_by_log {shell_path(job.folder)}",
                runtime_env={"working_dir": str(package)},
                metadata={"rows of": job.experiment.name},
            )
        except RuntimeError as error:
            raise OSError(f"the rows cannot be fetched: {_refusal(error)}") from None
        log: list[str] = []
        info = follow(client, name, log.append)
        if exit_code(info):
            raise OSError(f"the rows cannot be fetched: {info.message}")
        rows = rows_by_log.received("".join(log), job.folder)
        for name, content in rows.items():
            (Path(folder) / name).parent.mkdir(parents=True, exist_ok=True)
            (Path(folder) / name).write_bytes(content)
        return pull(Storage(folder), directory)
