"""Changes of a manifest: merged as Kubernetes would, refused where they do not fit."""

import pytest
import yaml

from harness.cluster.patch import patched
from tests.support.commands import call, refused
from tests.support.kuberay import kuberay
from tests.support.tiny import write

TOLERATION = {"key": "nvidia.com/gpu", "operator": "Exists", "effect": "NoSchedule"}


def document():
    return {
        "kind": "RayJob",
        "spec": {
            "workerGroupSpecs": [
                {
                    "groupName": "workers",
                    "replicas": 2,
                    "template": {"containers": [{"name": "ray-worker", "env": [{"name": "A", "value": "1"}]}]},
                }
            ],
            "drop": ["ALL"],
        },
    }


def merged(tmp_path, text, *more):
    (tmp_path / "patch.yaml").write_text(text)
    return patched([document(), *more], tmp_path / "patch.yaml")


def test_mappings_are_merged_and_null_deletes(tmp_path):
    (found,) = merged(tmp_path, "spec: {drop: null, suspend: true}\nmetadata: {labels: {team: vision}}")
    assert found["metadata"] == {"labels": {"team": "vision"}}
    assert found["spec"] == {"workerGroupSpecs": document()["spec"]["workerGroupSpecs"], "suspend": True}


def test_items_with_names_are_merged_and_other_lists_replaced(tmp_path):
    text = yaml.safe_dump(
        {
            "spec": {
                "drop": ["NET_RAW"],
                "workerGroupSpecs": [
                    {
                        "groupName": "workers",
                        "template": {
                            "tolerations": [TOLERATION],
                            "containers": [
                                {"name": "ray-worker", "env": [{"name": "B", "value": "2"}]},
                                {"name": "beside", "image": "i"},
                            ],
                        },
                    },
                    {"groupName": "spot", "replicas": 0},
                ],
            }
        }
    )
    (found,) = merged(tmp_path, text)
    workers, spot = found["spec"]["workerGroupSpecs"]
    assert found["spec"]["drop"] == ["NET_RAW"] and spot == {"groupName": "spot", "replicas": 0}
    assert workers["replicas"] == 2 and workers["template"]["tolerations"] == [TOLERATION]
    first, second = workers["template"]["containers"]
    assert [each["name"] for each in first["env"]] == ["A", "B"] and second["image"] == "i"


def test_an_item_is_deleted(tmp_path):
    text = "spec: {workerGroupSpecs: [{groupName: workers, $patch: delete}, {groupName: other, replicas: 1}]}"
    (found,) = merged(tmp_path, text)
    assert found["spec"]["workerGroupSpecs"] == [{"groupName": "other", "replicas": 1}]


def test_each_document_gets_the_changes_of_its_kind(tmp_path):
    text = "kind: ConfigMap\nimmutable: true\n---\nspec: {suspend: true}\n"
    job, config = merged(tmp_path, text, {"kind": "ConfigMap"})
    assert config == {"kind": "ConfigMap", "immutable": True} and job["spec"]["suspend"]
    assert merged(tmp_path, "") == [document()]


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("- a", "a patch is a mapping"),
        ("kind: Pod", "kind: Pod: the manifest has RayJob"),
        ("spec: 3", "spec: a mapping in the manifest, a value in the patch"),
        ("spec: {drop: {a: 1}}", "spec.drop: a list in the manifest, a mapping in the patch"),
        ("spec: {drop: all}", "spec.drop: a list in the manifest, a value in the patch"),
        ("kind: {a: b}", r"kind: \{'a': 'b'\}: the manifest has RayJob"),
        (
            "kind: RayJob\nspec: {workerGroupSpecs: [{replicas: 1}]}",
            "spec.workerGroupSpecs: is a list of mappings, each",
        ),
        ("spec: {workerGroupSpecs: {a: 1}}", "spec.workerGroupSpecs: a list in the manifest, a mapping in the patch"),
        ("spec: {workerGroupSpecs: [{groupName: [a]}]}", "spec.workerGroupSpecs: is a list of mappings, each"),
        ("spec: {workerGroupSpecs: [{groupName: workers, $patch: replace}]}", "only delete is supported"),
        ("spec: {$patch: delete}", r"spec.\$patch: is for items of lists with names; null deletes a key"),
        ("spec: &a {more: *a}", "holds itself by an alias"),
        ("spec: {1: 2}", "spec.1: keys are words"),
        ("spec: [", "not valid YAML"),
        ("spec: !!python/object/apply:os.system [echo]", "not valid YAML"),
        ("spec: {wandb_api_key: 0123456789abcdef0123456789abcdef01234567}", "looks like"),
    ],
)
def test_what_does_not_fit_is_refused_by_file_and_key(tmp_path, text, said):
    with pytest.raises(ValueError, match=said) as caught:
        merged(tmp_path, text)
    assert str(tmp_path / "patch.yaml") in str(caught.value)


def test_a_manifest_with_changes_and_a_queue(tmp_path):
    patch = tmp_path / "gpu.yaml"
    change = {"groupName": "workers", "template": {"spec": {"tolerations": [TOLERATION]}}}
    patch.write_text(yaml.safe_dump({"spec": {"rayClusterSpec": {"workerGroupSpecs": [change]}}}))
    arguments = ("submit", write(tmp_path), "--manifest", "kuberay", "--image", "i")
    text = call(*arguments, "--patch", patch, "--queue", "team-a").stdout
    _, job = yaml.safe_load_all(text)
    assert job["metadata"]["labels"]["kueue.x-k8s.io/queue-name"] == "team-a" and job["spec"]["suspend"] is True
    pod = job["spec"]["rayClusterSpec"]["workerGroupSpecs"][0]["template"]["spec"]
    assert pod["tolerations"] == [TOLERATION] and pod["containers"][0]["name"] == "ray-worker"
    plain = yaml.safe_load(call(*arguments).stdout.partition("---")[2])
    assert "suspend" not in plain["spec"]
    assert "a name of Kubernetes" in refused(*arguments, "--queue", "Team A")
    assert "are for --manifest kuberay" in refused(*arguments[:2], "--manifest", "slurm", "--queue", "a")
    assert "are a manifest's" in refused(*arguments[:2], "--patch", patch)
    assert "no.yaml" in refused(*arguments, "--patch", tmp_path / "no.yaml")


def test_the_file_of_the_experiment_is_written_as_before(tmp_path):
    """A patch goes through plain data, and the experiment stays a readable block."""
    patch = tmp_path / "p.yaml"
    patch.write_text("kind: ConfigMap\nmetadata: {labels: {a: b}}")
    text, config, _ = kuberay(write(tmp_path), patch=patch)
    assert "experiment.yaml: |" in text and config["metadata"]["labels"]["a"] == "b"


def test_a_cluster_that_scales_begins_with_no_worker(tmp_path):
    settings = "resources.autoscale=true", "resources.concurrent=4"
    _, _, job = kuberay(write(tmp_path), *settings)
    cluster = job["spec"]["rayClusterSpec"]
    (workers,) = cluster["workerGroupSpecs"]
    assert [workers[key] for key in ("replicas", "minReplicas", "maxReplicas")] == [0, 0, 4]
    assert cluster["enableInTreeAutoscaling"] and cluster["autoscalerOptions"]["idleTimeoutSeconds"] == 60
    # The autoscaler runs in the head's pod and asks Kubernetes for pods; no worker does.
    assert cluster["headGroupSpec"]["template"]["spec"]["automountServiceAccountToken"]
    assert not workers["template"]["spec"]["automountServiceAccountToken"]
    assert "resources.autoscale=true" in job["spec"]["entrypoint"]
    queued = ("submit", write(tmp_path), "--manifest", "kuberay", "--image", "i", "--queue", "a")
    assert "jobs of a fixed size" in refused(*queued, *(f"--set={each}" for each in settings))
    assert "autoscale needs concurrent" in refused("submit", write(tmp_path), "--set", settings[0])
    assert "autoscale" in refused(
        "submit", write(tmp_path), "--manifest", "slurm", *(f"--set={each}" for each in settings)
    )
