"""Which nodes a run may be on, and how many workers fit on them. What Ray says is made up."""

from typing import Any

import pytest

from harness.execution import nodes
from harness.execution.nodes import (
    NODE_ID,
    NOTICE_SECONDS,
    Notice,
    free,
    has_labels,
    idle_gpus,
    no_node,
    placed,
    require_room,
    room,
    selectors,
)
from harness.experiment.resources import Resources

TYPE = "ray.io/accelerator-type"


@pytest.fixture(autouse=True)
def leaving(monkeypatch: pytest.MonkeyPatch) -> set[str]:
    """The nodes that are about to be taken away; none at first."""
    ids: set[str] = set()
    monkeypatch.setattr(nodes, "draining", lambda: ids)
    return ids


def test_a_request_that_cannot_be_met_says_what_there_is(monkeypatch: pytest.MonkeyPatch) -> None:
    there_are = [{"NodeID": "a", "Alive": True, "Resources": {"CPU": 2.0}}]
    monkeypatch.setattr(nodes.ray, "nodes", lambda: there_are)
    monkeypatch.setattr(nodes.ray, "cluster_resources", lambda: {"CPU": 2.0})
    require_room(Resources(workers=2))
    too_much = {"workers": 3}, {"cpus_per_worker": 3}, {"loader_workers": 2}, {"gpus_per_worker": 1.0}
    for wanted in too_much:
        with pytest.raises(ValueError, match=r"Ray has 2 CPUs, 0 GPUs. Lower resources\.workers, cpus_per_worker, lo"):
            require_room(Resources.model_validate(wanted))


def test_gpus_that_stay_idle_for_want_of_cpus_are_said(monkeypatch: pytest.MonkeyPatch) -> None:
    there = {"CPU": 16.0, "GPU": 4.0}
    there_are = [{"NodeID": name, "Alive": name != "c", "Resources": there} for name in "abc"]
    monkeypatch.setattr(nodes.ray, "nodes", lambda: there_are)
    shipped = Resources(cpus_per_worker=2, gpus_per_worker=1.0, loader_workers=4)
    assert room(shipped) == {"a": 2, "b": 2}
    said = idle_gpus(shipped)
    assert (
        "the CPUs are enough for 4 workers, the GPUs for 8. A worker takes 6 CPUs (cpus_per_worker 2, loader_" in said
    )
    for enough in ({"loader_workers": 2}, {"gpus_per_worker": 2.0}, {"gpus_per_worker": 0.0}, {"concurrent": 4}):
        assert idle_gpus(shipped.model_copy(update=enough)) == ""
    assert room(shipped.model_copy(update={"loader_workers": 0, "gpus_per_worker": 0.5})) == {"a": 8, "b": 8}
    assert idle_gpus(shipped.model_copy(update={"concurrent": 5})) != ""


@pytest.mark.parametrize(
    ("text", "met"),
    [
        *[("H100", True), ("A100", False), ("!A100", True), ("!H100", False), ("in(A100, H100)", True)],
        *[("in(A100)", False), ("!in(A100,H100)", False), ("!in(A100, L4)", True)],
    ],
)
def test_labels_are_selected_as_ray_does(text: str, met: bool) -> None:
    assert has_labels({TYPE: "H100"}, {TYPE: text}) is met
    assert has_labels({}, {TYPE: text}) is text.startswith("!")
    assert has_labels({TYPE: "H100", "market": "spot"}, {TYPE: text, "market": "!spot"}) is False


def test_only_nodes_with_the_labels_have_room(monkeypatch: pytest.MonkeyPatch, leaving: set[str]) -> None:
    kinds = {"a": {TYPE: "H100"}, "b": {TYPE: "A100"}, "c": {}}
    there_are = [
        {"NodeID": name, "Alive": True, "Resources": {"CPU": 4.0}, "Labels": labels} for name, labels in kinds.items()
    ]
    monkeypatch.setattr(nodes.ray, "nodes", lambda: there_are)
    monkeypatch.setattr(nodes.ray, "cluster_resources", lambda: {"CPU": 12.0})
    wanted = Resources(labels={TYPE: "H100"}, fallback=({TYPE: "A100"},))
    assert room(Resources()) == {"a": 4, "b": 4, "c": 4} and room(wanted) == {"a": 4, "b": 4}
    assert room(wanted.model_copy(update={"fallback": ({},)})) == {"a": 4, "b": 4, "c": 4}
    assert room(wanted.model_copy(update={"fallback": ()})) == {"a": 4}
    leaving.add("a")
    assert room(wanted) == {"b": 4}
    said = r"on nodes with ray.io/accelerator-type=L4; Ray has 12 CPUs, .*or change labels"
    with pytest.raises(ValueError, match=said):
        require_room(Resources(labels={TYPE: "L4"}))


def test_room_that_is_free_is_counted_on_each_node_that_may_be_used(
    monkeypatch: pytest.MonkeyPatch, leaving: set[str]
) -> None:
    there_are = [
        {"NodeID": name, "Alive": True, "Resources": {"CPU": 4.0, "GPU": 2.0}, "Labels": {TYPE: kind}}
        for name, kind in (("a", "H100"), ("b", "A100"), ("c", "H100"))
    ]
    unused: dict[str, dict[str, float]] | None = {"a": {"CPU": 3.0, "GPU": 1.75}, "b": {"CPU": 4.0}, "c": {"CPU": 1.0}}
    monkeypatch.setattr(nodes.ray, "nodes", lambda: there_are)
    monkeypatch.setattr(nodes, "_of_state", lambda name: unused)
    assert free(Resources()) == 8 and free(Resources(labels={TYPE: "H100"})) == 4
    assert free(Resources(cpus_per_worker=2)) == 3, "two halves of nodes are no room"
    assert free(Resources(gpus_per_worker=0.25)) == 3 and free(Resources(gpus_per_worker=1.0)) == 1
    leaving.add("a")
    assert free(Resources(gpus_per_worker=0.25)) == 0
    unused = None  # of a cluster that hides it
    assert free(Resources(gpus_per_worker=1.0)) == 4


def test_gpus_of_other_kinds_are_not_missed(monkeypatch: pytest.MonkeyPatch) -> None:
    there_are = [
        {"NodeID": name, "Alive": True, "Resources": {"CPU": 64.0, "GPU": 8.0}, "Labels": {TYPE: kind}}
        for name, kind in (("a", "H100"), ("b", "A100"))
    ]
    monkeypatch.setattr(nodes.ray, "nodes", lambda: there_are)
    assert idle_gpus(Resources(gpus_per_worker=1.0, labels={TYPE: "H100"})) == ""


def test_a_cluster_whose_nodes_are_taken_away_says_so(monkeypatch: pytest.MonkeyPatch, leaving: set[str]) -> None:
    there_are = [{"NodeID": "a", "Alive": True, "Resources": {"CPU": 4.0}}]
    monkeypatch.setattr(nodes.ray, "nodes", lambda: there_are)
    monkeypatch.setattr(nodes.ray, "cluster_resources", lambda: {"CPU": 4.0})
    leaving.add("a")
    with pytest.raises(ValueError, match="0 GPUs, and 1 of its nodes are taken away"):
        require_room(Resources())


def test_a_worker_is_placed_by_labels_in_order_and_not_on_bad_nodes() -> None:
    plain = placed(Resources(cpus_per_worker=2, gpus_per_worker=1.0))
    assert plain == {"num_cpus": 2, "num_gpus": 1.0}
    wanted = Resources(labels={TYPE: "H100"}, fallback=({TYPE: "A100"}, {}))
    assert selectors(wanted, {"b", "a"})[0] == {TYPE: "H100", NODE_ID: "!in(a,b)"}
    options = placed(wanted)
    assert options["label_selector"] == {TYPE: "H100"}
    assert options["fallback_strategy"] == [{"label_selector": {TYPE: "A100"}}, {"label_selector": {}}]


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"labels": {"a b": "c"}}, "labels"),
        ({"labels": {"a": "in(b"}}, "labels"),
        ({"labels": {"a": "-b"}}, "labels"),
        ({"labels": {"-a/b": "c"}}, "labels"),
        ({"labels": {"a.-/b": "c"}}, "labels"),
        ({"fallback": [{"a": "b"}]}, "fallback is for labels"),
        ({"labels": {"a": "b"}, "fallback": [{}], "workers": 2}, r"write in\(...\) in labels"),
    ],
)
def test_labels_that_ray_would_refuse_are_refused_at_once(given: dict[str, Any], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        Resources.model_validate(given | {"fallback": tuple(given.get("fallback", ()))})


def test_a_cluster_that_grows_need_not_have_room_yet(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(nodes.ray, "nodes", list)
    grows = Resources(autoscale=True, concurrent=3, address="auto", gpus_per_worker=1.0, labels={TYPE: "H100"})
    require_room(grows)
    with pytest.raises(ValueError, match="address: local is this machine alone, which does not grow"):
        require_room(grows.model_copy(update={"address": "local"}))
    said = str(no_node(grows.model_copy(update={"node_minutes": 2.5})))
    assert "with 1 CPUs, 1 GPUs and ray.io/accelerator-type=H100 has come within 2.5 minutes" in said


def test_a_process_asks_now_and_then_whether_its_node_is_taken_away(
    monkeypatch: pytest.MonkeyPatch, leaving: set[str]
) -> None:
    now, asked = 100.0, list[float]()
    monkeypatch.setattr(nodes, "this_node", lambda: "a")
    monkeypatch.setattr(nodes, "draining", lambda: asked.append(now) or leaving)
    monkeypatch.setattr(nodes.time, "monotonic", lambda: now)
    notice = Notice()
    assert [notice() for _ in range(3)] == [False] * 3 and asked == [100.0]
    leaving.add("b")
    now += NOTICE_SECONDS
    assert not notice()
    leaving.add("a")
    now += NOTICE_SECONDS / 2
    assert not notice()
    now += NOTICE_SECONDS / 2
    assert notice() and notice() and len(asked) == 3
