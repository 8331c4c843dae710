"""The command `sstkd-bench submit`: an experiment as a job of a running Ray cluster, or as a manifest for one."""

import sys
from enum import Enum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from harness.cli.common import DEFAULT_RESULTS, Results, Set, answering, load

if TYPE_CHECKING:
    from harness.cluster.job import Job

DEFAULT_PYTHON = "python"
DEFAULT_ADDRESS = "http://127.0.0.1:8265"
CLUSTER_RESULTS = "~/sstkd-bench-results"


class Manifest(str, Enum):
    """What a manifest is written for."""

    KUBERAY = "kuberay"
    SLURM = "slurm"


def submit(
    file: Annotated[
        Path | None, typer.Argument(help="Experiment file (YAML); its paths are paths on the cluster.")
    ] = None,
    overrides: Set = None,
    results: Results = DEFAULT_RESULTS,
    address: Annotated[str, typer.Option(help="Address of the cluster's Ray dashboard.")] = DEFAULT_ADDRESS,
    cluster_results: Annotated[
        str | None,
        typer.Option(
            help=f"Results folder on the cluster, shared by all nodes; for jobs {CLUSTER_RESULTS} by default."
        ),
    ] = None,
    env: Annotated[
        list[str] | None, typer.Option(metavar="NAME", help="Pass this environment variable to the job; repeatable.")
    ] = None,
    exclude: Annotated[
        list[str] | None,
        typer.Option(metavar="GLOB", help="Do not upload these files of the current folder; repeatable."),
    ] = None,
    include: Annotated[
        list[str] | None,
        typer.Option(metavar="GLOB", help="Upload these files though they look like secrets; repeatable."),
    ] = None,
    list_files: Annotated[
        bool, typer.Option("--list-files", help="Print every file that would be uploaded, and submit nothing.")
    ] = False,
    python: Annotated[str, typer.Option(help="Python on the cluster that has the package installed.")] = DEFAULT_PYTHON,
    retry_failed: Annotated[bool, typer.Option("--retry-failed", help="Run failed runs again.")] = False,
    stop: Annotated[str | None, typer.Option(metavar="ID", help="Stop the job with this ID; needs no FILE.")] = None,
    manifest: Annotated[
        Manifest | None, typer.Option(help="Print a Kubernetes (KubeRay) or Slurm manifest instead of submitting.")
    ] = None,
    image: Annotated[str | None, typer.Option(help="kuberay: container image that has the package installed.")] = None,
    claim: Annotated[str, typer.Option(help="kuberay: PersistentVolumeClaim shared by all pods.")] = "sstkd-bench",
    queue: Annotated[
        str | None, typer.Option(metavar="NAME", help="kuberay: Kueue's local queue, which starts the job.")
    ] = None,
    patch: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="kuberay: YAML with changes of the manifest, such as tolerations."),
    ] = None,
    nodes: Annotated[
        int | None,
        typer.Option(min=1, help="Manifest: number of nodes; by default one per worker (kuberay) or one (slurm)."),
    ] = None,
    memory: Annotated[int, typer.Option(min=1, help="Manifest: GiB of memory per node.")] = 16,
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="Write the manifest to this file instead of printing it.")
    ] = None,
) -> None:
    """Run an experiment as a job on a Ray cluster, and fetch its rows.

    Starts the job or finds it running, and follows its log.

    Ctrl-C does not stop the job; re-run the same command to follow it again. The exit code is the job's.
    """
    code = 0
    with answering():
        if manifest is None and (image or output or nodes or queue or patch):
            raise ValueError(
                "--image, --nodes, --queue, --patch and --output are a manifest's: add --manifest kuberay or slurm"
            )
        if manifest is not None and (stop or exclude or include or list_files or python != DEFAULT_PYTHON):
            raise ValueError(
                "--stop, --exclude, --include, --list-files and --python are a job's, not a manifest's: a Slurm script "
                "takes the interpreter from SSTKD_BENCH_PYTHON, a RayJob that of the image"
            )
        if manifest is None and stop is not None:
            _stop(address, stop)
            return
        if file is None:
            raise ValueError("name the experiment file, or a job to stop: --stop ID")
        from harness.cluster.secrets import refuse_secrets_for_a_job

        settings = tuple(overrides or ())
        refuse_secrets_for_a_job(file, settings)
        experiment = load(file, list(settings), here=False)
        if manifest is not None:
            from harness.cluster import manifests

            options = manifests.Options(
                settings, tuple(env or ()), cluster_results, retry_failed, nodes, memory, image, claim, queue, patch
            )
            write = manifests.kuberay if manifest is Manifest.KUBERAY else manifests.slurm
            text = write(file, experiment, options)
            if output is None:
                sys.stdout.write(text)
            else:
                output.write_text(text)
            return
        from harness.cluster.job import Job, refuse_address, refuse_lost

        names, excludes, includes = tuple(env or ()), tuple(exclude or ()), tuple(include or ())
        where = CLUSTER_RESULTS if cluster_results is None else cluster_results
        refuse_lost(where)
        refuse_address(address)
        job = Job(file, experiment, settings, where, python, names, excludes, includes, retry_failed)
        sent = job.contents()
        for line in sent.lines(everything=list_files):
            typer.echo(line)
        code = 0 if list_files else _submit(address, job, results / experiment.name)
    if code:
        raise typer.Exit(code)


def _client(address: str) -> Any:
    from harness.cluster.job import connect, exposed

    if warning := exposed(address):
        typer.echo(f"warning: {warning}", err=True)
    return connect(address)


def _stop(address: str, name: str) -> None:
    client = _client(address)
    try:
        running = client.stop_job(name)
    except RuntimeError:
        raise ValueError(f"--stop {name}: there is no such job at {address}") from None
    typer.echo(f"{name}: stopping; its checkpoints are kept" if running else f"{name}: has ended already")


def _submit(address: str, job: "Job", directory: Path) -> int:
    """Start or find the job, follow it, fetch its rows, print the table; returns the exit code."""
    from harness.bench import Bench
    from harness.cluster.job import exit_code, fetch_rows, follow, start
    from harness.experiment import rules
    from harness.report.console import print_table
    from harness.report.write import table_of, write_report
    from harness.results import step_times, store
    from harness.results.weights import with_digests

    client = _client(address)
    name, new = start(client, job)
    try:
        typer.echo(f"{name}: {'started' if new else 'is running already; this is its log from the beginning'}")
        info = follow(client, name, _say)
    except KeyboardInterrupt:
        typer.echo(
            f"\n{name}: continues without this command. Re-run the same command to follow it and fetch its rows; to "
            f"stop it:\n    sstkd-bench submit --stop {name} --address {address}"
        )
        return 130
    code = exit_code(info)
    typer.echo(f"{name}: {info.status.value.lower()}", err=bool(code))
    if code == 2:
        return code  # a usage error, which the log names: nothing was run
    try:
        pulled = fetch_rows(client, job, directory)
    except ValueError as error:
        if not code:
            raise
        typer.echo(f"error: {error}", err=True)
        return code  # the job's: it is not this command that was wrong
    if pulled is None:
        return code  # this is the head node: the log had the table
    typer.echo(f"{directory}: {pulled.new} rows fetched, {pulled.kept} already present")
    experiment = with_digests(job.experiment, directory)
    if step_times.timed(experiment, directory):
        table = Bench(experiment, directory.parent, job.file).write_report()
    else:  # a job that ended before all steps were timed
        about = rules.labels(experiment), experiment.seeds, list(store.finished(directory))
        compared = table_of(directory, *about)
        write_report(directory, *about, str(job.file), compared)
        table = compared[0]
    print_table(table, directory=directory)
    return code


def _say(text: str) -> None:
    sys.stdout.write(text)
    sys.stdout.flush()
