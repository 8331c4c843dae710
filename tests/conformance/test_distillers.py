"""Every property that a distiller owes, by method of the table: a new method gets these lines without writing any."""

import importlib
import inspect
import json
import re
from pathlib import Path
from typing import Any, Literal, get_origin, get_type_hints

import pytest
import torch

from harness.distillers import METHODS, Distiller
from harness.experiment import signatures
from harness.experiment.method import Method
from harness.experiment.spec import Network
from harness.models import SegNet, build
from harness.taps import View
from harness.testing import PROPERTIES, Case, check_property, networks
from harness.testing.case import checked, numbers, own_terms, total
from harness.testing.made_up import CLASSES, MAIN, SAME, stream, trainable, view
from harness.testing.ranks import disagreements
from harness.testing.values import with_labels
from harness.training.build import build_method
from harness.training.cost import parameters
from tests.conformance.kinds import step, table
from tests.conformance.methods import AT_THE_TEACHER, SMALL, VARIANTS, WAIVED, WITH_LABELS, WRONG, case, sum_of
from tests.support.networks import built, stored

ALL = pytest.mark.parametrize("method", METHODS)
SUMS = [("kd", "sstkd"), ("skd", "ifvd"), ("cirkd", "mgd")]
# What a convention or another tap may break.
OF_VALUES = ["terms", "gradients", "one-stream", "minimum", "ignored-pixels", "no-labels", "absent-classes"]
OF_VALUES += ["flat-maps", "bfloat16", "weighted", "resumed"]
TOGETHER = "two-ranks"  # all methods in one start of two processes
PAIRS = {  # teacher, student: four architectures and five encoders on either side, a transformer on both
    "fpn": (("fpn", "resnet18"), ("fpn", "tu-mobilenetv3_small_050")),
    "strides-8-and-1": (("deeplabv3", "resnet18"), ("unet", "tu-mobilenetv3_small_050")),
    "transformer-teacher": (("segformer", "mit_b0"), ("deeplabv3plus", "mobilenet_v2")),
    "transformer-student": (("pspnet", "efficientnet-b0"), ("segformer", "mit_b0")),
    "no-stem": (("upernet", "tu-convnext_atto"), ("pspnet", "mobilenet_v2")),
}


@ALL
@pytest.mark.parametrize("name", [name for name in PROPERTIES if name != TOGETHER])
def test_property(name: str, method: str) -> None:
    check_property(case(method), name)


@pytest.mark.slow
@pytest.mark.parametrize(("method", "changed"), VARIANTS, ids=[Case(METHODS[m], c).label for m, c in VARIANTS])
def test_properties_of_a_variant(method: str, changed: dict[str, Any]) -> None:
    for name in OF_VALUES:
        check_property(case(method, **changed), name)


TWO_RANKS: dict[str, Case] = {
    **{name: case(name) for name in METHODS},
    **{"+".join(names): sum_of(*names) for names in SUMS},
    "the authors' queue": case("cirkd", convention="cirkd"),
    "trained tokens": case("freekd", train_tokens=True),
}


@pytest.fixture(scope="module")
def problems() -> dict[str, str | None]:
    return dict(zip(TWO_RANKS, disagreements(list(TWO_RANKS.values())), strict=True))


@pytest.mark.slow
@pytest.mark.parametrize("method", TWO_RANKS)
def test_two_ranks(problems: dict[str, str | None], method: str) -> None:
    assert problems[method] is None, problems[method]


@ALL
def test_what_is_compared_at_the_teacher_is_what_was_meant(method: str) -> None:
    distiller = case(method).build(SAME)
    found = distiller(view(SAME))
    waived = {key.partition(":")[2] for key in WAIVED.get(method, {})}
    assert waived <= found.keys()
    assert found.keys() - own_terms(distiller, found) - waived == AT_THE_TEACHER[method]


@pytest.mark.parametrize("method", WAIVED)
def test_what_is_waived_would_fail(method: str) -> None:
    for key in WAIVED[method]:
        name, _, term = key.partition(":")
        with pytest.raises(AssertionError, match=f"property {name}: term {term} "):
            check_property(Case(METHODS[method], SMALL.get(method, {})), name)


@ALL
def test_terms_with_labels_are_those_that_were_meant(method: str) -> None:
    """`ignored-pixels` asks something of these alone; a term that stopped using labels would pass it unseen."""
    assert with_labels(case(method)) == WITH_LABELS.get(method, set())


@ALL
def test_default_values(method: str) -> None:
    """At the published sizes: two steps."""
    distiller = Case(METHODS[method]).build()
    for number in range(2):
        checked(distiller, view(MAIN, seed=number), "default values")


@ALL
def test_wrong_values_are_refused_with_given_and_allowed(method: str) -> None:
    known = inspect.signature(METHODS[method]).parameters
    for changed, allowed in WRONG[method]:
        assert changed.keys() <= known.keys()
        with pytest.raises(ValueError) as caught:
            _as_a_run_does(METHODS[method], changed)
        value = next(iter(changed.values()))
        given = [str(item) for item in value if item != "decoder"] if isinstance(value, tuple) else [str(value)]
        told = str(caught.value)
        assert allowed in told and any(item in told for item in given or ["()", "is empty"]), changed


def _as_a_run_does(kind: type[Distiller], changed: dict[str, Any]) -> None:
    reason = Case(kind, changed).skip(MAIN)
    if reason is not None:
        raise ValueError(reason)
    kind(MAIN, **changed)


@ALL
def test_every_choice_and_every_tuned_value_is_tried(method: str) -> None:
    kind = METHODS[method]
    hints = get_type_hints(kind.__init__)
    choices = {name for name, hint in hints.items() if get_origin(hint) is Literal}
    assert choices <= {key for changed, _ in WRONG[method] for key in changed}
    for name, (low, high) in kind.space.items():
        for value in (low, high):
            Case(kind, {**SMALL.get(method, {}), name: value}).build()


def test_the_table_read_from_source_is_the_table() -> None:
    table = signatures.table("harness.distillers", "METHODS")
    assert {name: entry.target for name, entry in table.items()} == {
        name: f"{kind.__module__}:{kind.__qualname__}" for name, kind in METHODS.items()
    }
    assert WRONG.keys() == AT_THE_TEACHER.keys() == METHODS.keys()
    for name, kind in METHODS.items():
        own = list(inspect.signature(kind).parameters.values())[1:]
        assert all(p.default is not p.empty for p in own), "each method works as its name alone"
        assert table[name].constants.get("caveat", "") == kind.caveat


@ALL
def test_the_file_names_its_source(method: str) -> None:
    """Beside the equation and the reduction, which the property `contract` wants of every distiller."""
    kind = METHODS[method]
    doc = importlib.import_module(kind.__module__).__doc__ or ""
    if kind.needs_teacher:
        assert re.search(r"arXiv\s\d{4}\.\d{4,5}|https://", doc)
        assert "code" in doc and re.search(r"[Dd]eviat", doc)
    taken = {name for name, _ in inspect.getmembers(kind, inspect.isfunction)} - set(dir(Distiller))
    assert all(name.startswith("_") for name in taken), "no public method beside the contract's"


@pytest.mark.slow
def test_the_stored_networks_are_those_that_are_built() -> None:
    assert built() == stored(), "renew them: python -m tests.support.networks"


def test_networks_that_cannot_be_built_are_known_with_the_reason() -> None:
    found, refused = networks.networks()
    assert refused == {"linknet/mit_b0": "Encoder `mit_b0` is not supported for Linknet"}
    assert len(found) == len(networks.ARCHITECTURES) * len(networks.ENCODERS) + len(networks.PAPERS) - len(refused)
    pairs = networks.pairs()
    assert {name.split(" -> ")[0] for name in pairs} == {name.split(" -> ")[1] for name in pairs} == found.keys()
    assert not any(pair.student == pair.teacher for pair in pairs.values())
    for name in ("unet/tu-convnext_atto", "deeplabv3plus/mobilenet_v2", "pspnet-papers/tu-resnet18"):
        architecture, encoder = name.split("/")
        assert build(Network(architecture=architecture, encoder=encoder), CLASSES, 0).info() == found[name]


@pytest.mark.parametrize(
    ("method", "refused", "reason"),
    [
        ("af-dcd", {"groups": 5}, "channels, no multiple of groups 5"),
        ("at", {"taps": ["stem"]}, "there is no tap stem"),
    ],
)
def test_pairs_a_method_does_not_apply_to_are_told_and_the_others_built(
    method: str, refused: dict[str, Any], reason: str
) -> None:
    found = {name: Case(METHODS[method], refused).skip(pair) for name, pair in networks.pairs().items()}
    told = [text for text in found.values() if text is not None]
    assert told and all(reason in text for text in told)
    assert method == "af-dcd" or len(told) < len(found)


_NETWORKS: dict[tuple[str, str], SegNet] = {}


def network(architecture: str, encoder: str) -> SegNet:
    """Built once; tests leave it as it was."""
    key = architecture, encoder
    if key not in _NETWORKS:
        _NETWORKS[key] = build(Network(architecture=architecture, encoder=encoder), CLASSES, seed=5).eval()
    return _NETWORKS[key]


@pytest.mark.parametrize(
    "method",
    [name if name in ("none", "kd", "sstkd") else pytest.param(name, marks=pytest.mark.slow) for name in METHODS],
)
@pytest.mark.parametrize("pair", PAIRS)
def test_real_networks(method: str, pair: str) -> None:
    """One step of the training on real networks, in float32 and with a transformer in bfloat16, too."""
    teacher, student = (network(*key) for key in PAIRS[pair])
    before = {name: value.clone() for name, value in teacher.state_dict().items()}
    for half in (False, True) if pair == "transformer-teacher" else (False,):
        step(method, teacher, student, half)
    assert all(torch.equal(value, before[name]) for name, value in teacher.state_dict().items())


@pytest.mark.slow
def test_the_docs_say_which_kinds_of_networks_a_method_takes() -> None:
    page = (Path(__file__).parents[2] / "docs" / "networks.md").read_text()
    assert table() in page, "renew it: python -m tests.conformance.kinds"


def test_what_does_not_apply_is_refused_with_the_reason() -> None:
    pair = networks.pairs()["upernet/tu-convnext_atto -> linknet/tu-convnext_atto"]
    for stages in (["stem"], ["stage1", "stem"]):
        with pytest.raises(ValueError, match=r"sstkd\(.*does not apply to this pair: the student has no tap stem"):
            build_method(Method(name="sstkd", parameters={"stages": stages}), pair, 0)


OUTSIDE = """
from harness.distillers import Distiller

class Half(Distiller):
    def __init__(self, pair, *, weight: float = 0.5, sizes: tuple[int, ...] = (1,)):
        super().__init__()
        self.weight, self.sizes, self.classes = weight, sizes, pair.num_classes

class Stranger:
    def __init__(self, pair, *, weight: float = 0.5):
        pass
"""


def test_a_method_from_outside_the_project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "outside_method.py").write_text(OUTSIDE)
    monkeypatch.syspath_prepend(tmp_path)
    built = build_method(Method(name="outside_method:Half", parameters={"sizes": [2, 3]}), MAIN, 0)
    assert (built.weight, built.sizes, built.classes) == (0.5, (2, 3), CLASSES)
    with pytest.raises(ValueError, match="outside_method:Stranger is not a subclass of"):
        build_method(Method(name="outside_method:Stranger"), MAIN, 0)


def test_the_base_class_has_no_forward_of_its_own() -> None:
    with pytest.raises(TypeError, match="Distiller has no forward"):
        Distiller()(view(MAIN))


# Sums


@pytest.mark.parametrize("names", SUMS, ids="+".join)
@pytest.mark.parametrize(
    "name",
    [
        "terms",
        "gradients",
        "read-only",
        "no-labels",
        "absent-classes",
        "sizes",
        "flat-maps",
        "bfloat16",
        "one-stream",
        "trained-apart",
        "whole-step",
        "resumed",
        "copies",
    ],
)
def test_property_of_a_sum(name: str, names: tuple[str, ...]) -> None:
    check_property(sum_of(*names), name)


@pytest.mark.parametrize("names", SUMS, ids="+".join)
def test_a_sum_is_its_parts(names: tuple[str, ...]) -> None:
    """Terms, optimizers, parameters of the parts built alone; by name, they draw from the step's stream in turn."""
    together = sum_of(*names).build()
    alone = {name: build_method(Method(name=name, parameters=SMALL.get(name, {})), MAIN, 0) for name in sorted(names)}
    seen = view(MAIN)
    shared = View(trainable(seen.student), seen.teacher, seen.labels, seen.progress, stream())
    expected = {f"{name}.{term}": value for name, part in alone.items() for term, value in part(shared).items()}
    found = together(seen)
    assert list(found) == list(expected)
    assert numbers(found) == numbers(expected)
    for terms, who in ((found, together), (expected, None)):
        total(terms).backward()
        assert who is None or any(p.grad is not None for p in who.parameters())
    gradients = [p.grad for part in alone.values() for p in part.parameters() if p.requires_grad]
    summed = [p.grad for p in together.parameters() if p.requires_grad]
    assert all(torch.equal(a, b) for a, b in zip(gradients, summed, strict=True))
    own = [own for part in alone.values() for own in part.own_optimizers()]
    assert [(len(o.parameters), o.lr, o.betas) for o in together.own_optimizers()] == [
        (len(o.parameters), o.lr, o.betas) for o in own
    ]
    assert parameters(together) == sum(parameters(part) for part in alone.values())


def test_a_sum_holds_a_critic_of_each_part() -> None:
    critics = sum_of("skd", "ifvd").build().own_optimizers()
    assert len(critics) == 2
    assert not {id(p) for p in critics[0].parameters} & {id(p) for p in critics[1].parameters}


def test_parameters_of_a_sum_belong_to_its_parts() -> None:
    method = sum_of("skd", "ifvd").method
    assert method.parameters == {"skd.critic_width": 8, "ifvd.critic_width": 8}
    assert json.loads(method.model_dump_json())["name"] == "ifvd+skd"
    with pytest.raises(ValueError, match=r"tau is not a parameter of kd\+mgd"):
        build_method(Method(name="kd+mgd", parameters={"tau": 1.0}), MAIN, 0)
