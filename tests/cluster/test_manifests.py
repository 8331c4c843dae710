"""Manifests: a RayJob that KubeRay's schema allows, a Slurm script that shellcheck accepts; no values, no secrets."""

import re
import shutil
import subprocess
from importlib.metadata import version

import pytest

from harness.cluster import manifests
from harness.cluster.manifests import Options, Share
from harness.experiment.resources import Resources
from tests.experiment.test_cluster_file import CITYSCAPES
from tests.support.commands import call, refused
from tests.support.kuberay import kuberay, loaded
from tests.support.tiny import write

# --- Shares ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("resources", "nodes", "expected"),
    [
        ({}, None, Share(1, 1, 1, 0)),
        ({"concurrent": 3}, None, Share(3, 1, 1, 0)),
        ({"concurrent": 3}, 2, Share(2, 2, 2, 0)),
        ({"workers": 8, "gpus_per_worker": 1.0, "cpus_per_worker": 2, "loader_workers": 4}, 2, Share(2, 4, 24, 4)),
        ({"workers": 4, "gpus_per_worker": 1.0}, None, Share(4, 1, 1, 1)),
        ({"concurrent": 5, "gpus_per_worker": 0.5}, None, Share(3, 2, 2, 1)),
        ({"workers": 2}, 9, Share(2, 1, 1, 0)),
    ],
)
def test_workers_are_dealt_out(resources, nodes, expected):
    assert manifests.share(Resources(**resources), nodes) == expected


# --- KubeRay -----------------------------------------------------------------------------------------------------------


def test_a_ray_job_of_the_shipped_experiment():
    text, config, job = kuberay(CITYSCAPES, "resources.concurrent=4", names=("WANDB_API_KEY",), claim="mine")
    assert config["data"] == {"experiment.yaml": CITYSCAPES.read_text()}
    assert "--from-literal=CITYSCAPES=... --from-literal=WEIGHTS=... --from-literal=WANDB_API_KEY=..." in text
    spec, cluster = job["spec"], job["spec"]["rayClusterSpec"]
    assert spec["entrypoint"] == (
        "python -m harness.cli run /etc/sstkd-bench/experiment.yaml --results /mnt/sstkd-bench/results --set "
        "resources.concurrent=4"
    )
    assert spec["shutdownAfterJobFinishes"] and spec["submissionMode"] == "K8sJobMode"
    assert cluster["authOptions"] == {"mode": "token"} and cluster["rayVersion"] == version("ray")
    assert cluster["headGroupSpec"]["rayStartParams"] == {"num-cpus": "0"}
    workers = cluster["workerGroupSpecs"][0]
    assert [workers[key] for key in ("replicas", "minReplicas", "maxReplicas")] == [4, 4, 4]
    assert workers["rayStartParams"] == {"num-cpus": "6"}, "loader workers reserve a CPU each"
    wanted = {"cpu": "6", "memory": "16Gi", "nvidia.com/gpu": "1"}
    for group in (cluster["headGroupSpec"], workers):
        pod = group["template"]["spec"]
        container = pod["containers"][0]
        assert {"name": "RAY_USAGE_STATS_ENABLED", "value": "0"} in container["env"]
        assert [e["name"] for e in container["env"] if "valueFrom" in e] == ["CITYSCAPES", "WEIGHTS", "WANDB_API_KEY"]
        assert pod["volumes"][0]["persistentVolumeClaim"] == {"claimName": "mine"}
        mounted = {mount["name"]: mount["mountPath"] for mount in container["volumeMounts"]}
        assert mounted == {"shared": "/mnt/sstkd-bench", "experiment": "/etc/sstkd-bench"}
        limits = container["resources"]["limits"]
        assert limits == (wanted if group is workers else {"cpu": "2", "memory": "8Gi"})


def test_a_plain_experiment_joins_the_cluster(tmp_path):
    _, config, job = kuberay(write(tmp_path), results="/mnt/a b", retry_failed=True, memory=4, nodes=1)
    assert job["spec"]["entrypoint"].endswith("--results '/mnt/a b' --set resources.address=auto --retry-failed")
    pod = job["spec"]["rayClusterSpec"]["workerGroupSpecs"][0]["template"]["spec"]
    assert pod["containers"][0]["resources"]["limits"] == {"cpu": "1", "memory": "4Gi"}
    (tmp_path / "again.yaml").write_text(config["data"]["experiment.yaml"])
    assert loaded(tmp_path / "again.yaml") == loaded(tmp_path / "tiny.yaml")


@pytest.mark.parametrize("name", ["tiny", "Tiny_1.5", "x" * 90, "a" * 40, "-".join("ab" * 20)])
def test_names_are_kubernetes_names(tmp_path, name):
    _, config, job = kuberay(write(tmp_path, name=name))
    assert config["metadata"]["name"] == job["metadata"]["name"]
    assert len(job["metadata"]["name"]) <= 40


def test_different_names_stay_different(tmp_path):
    names = {kuberay(write(tmp_path, name=name))[2]["metadata"]["name"] for name in ("a.b", "a_b", "a-b", "A-b")}
    assert len(names) == 4


def test_a_manifest_needs_an_image(tmp_path):
    path = write(tmp_path)
    assert "--image REGISTRY/NAME:TAG" in refused("submit", path, "--manifest", "kuberay")
    output = tmp_path / "job.yaml"
    assert call("submit", path, "--manifest", "kuberay", "--image", "i", "-o", output).output == ""
    assert output.read_text() == call("submit", path, "--manifest", "kuberay", "--image", "i").stdout


@pytest.mark.parametrize("kind", ["kuberay", "slurm"])
def test_secrets_and_values_are_refused(tmp_path, kind):
    path = write(tmp_path)
    arguments = ("submit", path, "--manifest", kind, "--image", "i")
    assert "give the name alone" in refused(*arguments, "--env", "A=b")
    path.write_text(path.read_text() + "# wandb_token: abcdef\n")
    assert "looks like a secret" in refused(*arguments)


# --- Slurm -------------------------------------------------------------------------------------------------------------


def slurm(path, *overrides, **options):
    return manifests.slurm(path, loaded(path, *overrides), Options(overrides, **options))


def test_a_script_asks_for_what_the_runs_need():
    text = slurm(CITYSCAPES, "resources.concurrent=8", nodes=2, memory=64, results="/shared/it's")
    for line in (
        "#SBATCH --job-name=cityscapes",
        "#SBATCH --nodes=2",
        "#SBATCH --cpus-per-task=24",
        "#SBATCH --gpus-per-node=4",
        "#SBATCH --mem=64G",
        "results='/shared/it'\"'\"'s'",
        ': "${CITYSCAPES:?is needed: export it before sbatch}" "${WEIGHTS:?is needed: export it before sbatch}"',
    ):
        assert line in text.splitlines()
    assert "--num-cpus=24 --num-gpus=4" in text and "--set resources.concurrent=8" in text
    assert f"<<'END_OF_EXPERIMENT'\n{CITYSCAPES.read_text()}END_OF_EXPERIMENT\n" in text
    assert "--dashboard-host=127.0.0.1" in text and "export RAY_AUTH_MODE=token" in text
    assert "ray stop" not in text.replace(CITYSCAPES.read_text(), "")


def test_a_script_without_gpus_asks_for_none(tmp_path):
    text = slurm(write(tmp_path))
    assert "--gpus-per-node" not in text and "--num-gpus=0" in text and "#SBATCH --nodes=1" in text
    assert "is needed" not in text and re.search("@[A-Z_]+@", text) is None


def test_an_experiment_cannot_end_itself_in_the_script(tmp_path):
    path = write(tmp_path)
    experiment = loaded(path)
    path.write_text("name: >-\n  x\nEND_OF_EXPERIMENT\n")
    with pytest.raises(ValueError, match="the line END_OF_EXPERIMENT ends the file"):
        manifests.slurm(path, experiment, Options())


@pytest.mark.skipif(
    shutil.which("shellcheck") is None, reason="shellcheck is not installed (apt-get install shellcheck)"
)
@pytest.mark.parametrize("nodes", [1, 3])
def test_shellcheck_has_nothing_to_say(tmp_path, nodes):
    path = tmp_path / "job.sh"
    for experiment in (CITYSCAPES, write(tmp_path)):
        path.write_text(slurm(experiment, "resources.concurrent=3", nodes=nodes, names=("A",)))
        done = subprocess.run(["shellcheck", str(path)], capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stdout


def test_a_script_stops_where_a_variable_is_missing(tmp_path):
    """Before it has made or started anything."""
    path = tmp_path / "job.sh"
    path.write_text(slurm(write(tmp_path), names=("NEEDED_HERE",)))
    environment = {"PATH": "/usr/bin:/bin", "SLURM_JOB_ID": "1", "SLURM_SUBMIT_DIR": str(tmp_path)}
    done = subprocess.run(["bash", str(path)], env=environment, capture_output=True, text=True, check=False)
    assert done.returncode != 0 and "NEEDED_HERE: is needed" in done.stderr
    assert not list(tmp_path.glob(".sstkd-bench-*"))
