"""Manifests that start a Ray cluster for one experiment and end it afterwards: a KubeRay RayJob, a Slurm script.

Both contain the experiment file unchanged, enable token authentication and disable usage statistics. Environment
variables are included by name only.
"""

import hashlib
import math
import re
import shlex
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import yaml

from harness.borders import one_line
from harness.cluster import secrets
from harness.cluster.job import override_arguments, shell_path
from harness.cluster.patch import patched
from harness.experiment.resources import Resources
from harness.experiment.spec import Experiment
from harness.experiment.storage_uri import is_uri

MOUNT = "/mnt/sstkd-bench"
"""Mount point of the shared volume in the pods."""
_CONFIG = "/etc/sstkd-bench"


@dataclass(frozen=True)
class Options:
    """Options that are not in the experiment file.

    Attributes:
        overrides: `key.path=value`.
        names: environment variables of the runs, besides those in the experiment's paths.
        results: the results folder, accessible from every node.
        retry_failed: run failed runs again.
        nodes: number of nodes for the workers.
        memory: GiB per node.
        image: the pods' container image.
        claim: the pods' shared volume claim.
        queue: Kueue's local queue that admits the job.
        patch: a file with changes of the manifest.
    """

    overrides: tuple[str, ...] = ()
    names: tuple[str, ...] = ()
    results: str | None = None
    retry_failed: bool = False
    nodes: int | None = None
    memory: int = 16
    image: str | None = None
    claim: str = "sstkd-bench"
    queue: str | None = None
    patch: Path | None = None


@dataclass(frozen=True)
class Share:
    """One node's part of an experiment: its workers, their CPUs, additional CPUs for loading data, GPUs."""

    nodes: int
    workers: int
    cpus: int
    gpus: int


def share(resources: Resources, nodes: int | None) -> Share:
    """Distribute the workers of concurrent runs over nodes.

    Args:
        resources: the experiment's resources; without `concurrent` one run at a time.
        nodes: number of nodes; None: one per worker, or per GPU if workers share GPUs.
    """
    total = resources.workers * (resources.concurrent or 1)
    together = math.floor(1 / resources.gpus_per_worker) if 0 < resources.gpus_per_worker < 1 else 1
    nodes = min(nodes or math.ceil(total / together), total)
    workers = math.ceil(total / nodes)
    gpus = (
        math.ceil(workers / together) if resources.gpus_per_worker < 1 else round(workers * resources.gpus_per_worker)
    )
    gpus = gpus if resources.gpus_per_worker else 0
    return Share(nodes, workers, workers * resources.cpus, gpus)


def _checked(file: Path, experiment: Experiment, options: Options) -> tuple[str, list[str]]:
    """The experiment file's text, and the names of all environment variables the runs need.

    Raises:
        ValueError: something looks like a secret, or a name is invalid.
    """
    text = file.read_text()
    secrets.refuse_secrets_for_a_job(file, options.overrides)
    in_paths = re.findall(r"\$\{(\w+)\}", experiment.model_dump_json())
    names = list(dict.fromkeys([*in_paths, *options.names]))
    secrets.written(names, dict.fromkeys(names, ""))
    return text, names


def _run_arguments(experiment: Experiment, options: Options) -> list[str]:
    retry = ["--retry-failed"] if options.retry_failed else []
    return [*override_arguments(experiment, options.overrides), *retry]


def slurm(file: Path, experiment: Experiment, options: Options) -> str:
    """A script for sbatch.

    Raises:
        ValueError: as `kuberay`, the results folder is a URI, or the experiment file contains the script's end marker.
    """
    if options.results is not None and is_uri(options.results):
        raise ValueError(
            f"--cluster-results {options.results}: is not a folder; for a URI, set resources.storage in the file"
        )
    if options.queue is not None or options.patch is not None:
        raise ValueError("--queue and --patch are for --manifest kuberay; change a Slurm script in the script itself")
    if experiment.resources.autoscale:
        raise ValueError("resources.autoscale: a Slurm job has the nodes that it asks for; leave it out")
    text, names = _checked(file, experiment, options)
    if "END_OF_EXPERIMENT" in text.splitlines():
        raise ValueError(f"{file}: the line END_OF_EXPERIMENT ends the file in the script; delete it")
    part = share(experiment.resources, options.nodes or 1)
    results = '"$SLURM_SUBMIT_DIR/results"' if options.results is None else shell_path(options.results)
    values = {
        "NAME": experiment.name,
        "NODES": str(part.nodes),
        "CPUS": str(part.cpus),
        "GPUS": str(part.gpus),
        "MEMORY": str(options.memory),
        "PYTHON": shlex.quote(sys.executable),
        "RESULTS": results,
        "VARIABLES": " ".join(f'"${{{name}:?is needed: export it before sbatch}}"' for name in names),
        "ARGUMENTS": shlex.join(_run_arguments(experiment, options)),
        "EXPERIMENT": text.rstrip("\n"),
    }
    lines = Path(__file__).with_name("slurm.sh").read_text().splitlines()
    kept = [
        line
        for line in lines
        if not (line.startswith("#SBATCH") and "@GPUS@" in line and part.gpus == 0)
        and not (line.startswith(": @VARIABLES@") and not names)
    ]
    return re.sub("@([A-Z_]+)@", lambda match: values[match[1]], "\n".join(kept)) + "\n"


def kuberay(file: Path, experiment: Experiment, options: Options) -> str:
    """A ConfigMap with the experiment and the RayJob that runs it, as YAML.

    Raises:
        ValueError: no image is given, the results folder is not absolute, something looks like a secret, or a name is
            invalid.
    """
    if options.results is not None and not options.results.startswith("/"):
        raise ValueError(
            f"--cluster-results {options.results}: would be deleted with the pod; give an absolute folder on a volume, "
            f"such as {MOUNT}/results. To store rows at a URI, set resources.storage in the file"
        )
    if options.image is None:
        raise ValueError(
            "--manifest kuberay: name an image in which the package is installed: --image REGISTRY/NAME:TAG"
        )
    text, names = _checked(file, experiment, options)
    name = _dns_name(experiment.name)
    config = {
        "apiVersion": "v1",
        "kind": "ConfigMap",
        "metadata": {"name": name, "labels": {"app.kubernetes.io/name": "sstkd-bench"}},
        "data": {"experiment.yaml": _Literal(text)},
    }
    job: dict[str, Any] = {
        "apiVersion": "ray.io/v1",
        "kind": "RayJob",
        "metadata": {"name": name, "labels": {"app.kubernetes.io/name": "sstkd-bench"}},
        "spec": _ray_job(experiment, options, name, names),
    }
    if options.queue is not None:
        if experiment.resources.autoscale:
            raise ValueError("--queue: Kueue starts jobs of a fixed size; leave out --queue, or resources.autoscale")
        job["metadata"]["labels"]["kueue.x-k8s.io/queue-name"] = _queue_name(options.queue)
        job["spec"]["suspend"] = True  # Kueue starts it when the queue has room
    if options.patch is not None:
        config, job = patched((config, job), options.patch)
    needed = [
        f"the volume claim {options.claim} (ReadWriteMany; data, weights and results are below {MOUNT} in every pod)"
    ]
    if names:
        keys = " ".join(f"--from-literal={key}=..." for key in names)
        needed.append(f"kubectl create secret generic {name} {keys}")
    head = "".join(f"# Needed before: {line}\n" for line in needed)
    return f"# KubeRay 1.5.1 or newer: kubectl apply -f THIS_FILE\n{head}{_yaml(config)}---\n{_yaml(job)}"


def _ray_job(experiment: Experiment, options: Options, name: str, names: Sequence[str]) -> dict[str, Any]:
    part = share(experiment.resources, options.nodes)
    results = options.results or f"{MOUNT}/results"
    command = ["python", "-m", "harness.cli", "run", f"{_CONFIG}/experiment.yaml", "--results", results]
    head = {"cpu": "2", "memory": f"{min(options.memory, 8)}Gi"}
    worker = {"cpu": str(part.cpus), "memory": f"{options.memory}Gi"}
    if part.gpus:
        worker["nvidia.com/gpu"] = str(part.gpus)

    def pod(container: str, resources: dict[str, str]) -> dict[str, Any]:
        return _pod(container, resources, options, name, names)

    scales = experiment.resources.autoscale
    of_head = pod("ray-head", head)
    # Ray's autoscaler, which KubeRay puts beside the head, asks Kubernetes for pods.
    of_head["spec"]["automountServiceAccountToken"] = scales
    return {
        "entrypoint": shlex.join([*command, *_run_arguments(experiment, options)]),
        "submissionMode": "K8sJobMode",
        "shutdownAfterJobFinishes": True,
        "ttlSecondsAfterFinished": 60,
        "backoffLimit": 1,  # a new cluster resumes from rows and checkpoints
        "metadata": {"experiment": experiment.name},
        "rayClusterSpec": {
            "rayVersion": version("ray"),
            "authOptions": {"mode": "token"},
            **({"enableInTreeAutoscaling": True, "autoscalerOptions": {"idleTimeoutSeconds": 60}} if scales else {}),
            "headGroupSpec": {
                "serviceType": "ClusterIP",
                "rayStartParams": {"num-cpus": "0"},  # runs go to the workers
                "template": of_head,
            },
            "workerGroupSpecs": [
                {
                    "groupName": "workers",
                    "replicas": 0 if scales else part.nodes,
                    "minReplicas": 0 if scales else part.nodes,
                    "maxReplicas": part.nodes,
                    "rayStartParams": {"num-cpus": str(part.cpus)},
                    "template": pod("ray-worker", worker),
                }
            ],
        },
    }


def _pod(
    container: str, resources: dict[str, str], options: Options, name: str, names: Sequence[str]
) -> dict[str, Any]:
    """A pod's template: the shared volume, the experiment, variables from a secret, and minimal permissions."""
    variables: list[dict[str, Any]] = [{"name": "RAY_USAGE_STATS_ENABLED", "value": "0"}]
    variables += [{"name": key, "valueFrom": {"secretKeyRef": {"name": name, "key": key}}} for key in names]
    mounts = [{"name": "shared", "mountPath": MOUNT}, {"name": "experiment", "mountPath": _CONFIG, "readOnly": True}]
    return {
        "spec": {
            "automountServiceAccountToken": False,
            "containers": [
                {
                    "name": container,
                    "image": options.image,
                    "env": variables,
                    "resources": {"requests": resources, "limits": resources},
                    "securityContext": {"allowPrivilegeEscalation": False, "capabilities": {"drop": ["ALL"]}},
                    "volumeMounts": mounts,
                }
            ],
            "volumes": [
                {"name": "shared", "persistentVolumeClaim": {"claimName": options.claim}},
                {"name": "experiment", "configMap": {"name": name}},
            ],
        }
    }


def _queue_name(name: str) -> str:
    """Raise ValueError unless it is a name as Kubernetes allows."""
    if not re.fullmatch(r"[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?", name):
        raise ValueError(f"--queue {one_line(name)}: a name of Kubernetes has lower-case letters, digits and -")
    return name


def _dns_name(name: str) -> str:
    """A unique Kubernetes name of at most 40 characters (KubeRay appends to it) that starts with a letter."""
    plain = re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-")
    if plain == name and len(plain) <= 40 and plain[0].isalpha():
        return plain
    if not plain[:1].isalpha():
        plain = f"run-{plain}"
    return f"{plain[:31].strip('-')}-{hashlib.sha256(name.encode()).hexdigest()[:8]}"


class _Literal(str):
    """Text that is written as a YAML block."""


class _Dumper(yaml.SafeDumper):
    """Writes every value in full, without anchors."""

    def ignore_aliases(self, data: Any) -> bool:
        return True


_Dumper.add_representer(
    _Literal, lambda dumper, text: dumper.represent_scalar("tag:yaml.org,2002:str", str(text), style="|")
)


def _yaml(document: dict[str, Any]) -> str:
    text: str = yaml.dump(document, Dumper=_Dumper, sort_keys=False, width=10_000)
    return text
