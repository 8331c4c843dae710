"""What every entry of METHODS owes: a new method gets these lines without writing any."""

import copy
import functools
import importlib
import inspect
import pickle
import re
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from harness import signatures
from harness.distillers import METHODS, Distiller
from harness.models import SegNet, build
from harness.parts import build_method
from harness.spec import Method, Network
from harness.taps import NetworkInfo, Pair, Taps, View
from harness.train import KDStep

CLASSES = 4
IGNORE = 255
PAIRS = {  # teacher, student: four architectures and five encoders on either side, a transformer on both
    "fpn": (("fpn", "resnet18"), ("fpn", "tu-mobilenetv3_small_050")),
    "strides-8-and-1": (("deeplabv3", "resnet18"), ("unet", "tu-mobilenetv3_small_050")),
    "transformer-teacher": (("segformer", "mit_b0"), ("deeplabv3plus", "mobilenet_v2")),
    "transformer-student": (("pspnet", "efficientnet-b0"), ("segformer", "mit_b0")),
    "no-stem": (("upernet", "tu-convnext_atto"), ("pspnet", "mobilenet_v2")),
}
# Wrong values per method: what is given, and what the message says is allowed.
WRONG: dict[str, list[tuple[dict[str, Any], str]]] = {
    "none": [],
    "kd": [
        ({"weight": 0.0}, "above 0"),
        ({"weight": -1.0}, "above 0"),
        ({"temperature": 0.0}, "above 0"),
        ({"weight": float("nan")}, "finite"),
        ({"temperature": float("inf")}, "finite"),
    ],
    "cwd": [
        ({"weight": 0.0}, "above 0"),
        ({"tau": -2.0}, "above 0"),
        ({"tau": float("nan")}, "finite"),
        ({"weight": float("inf")}, "finite"),
    ],
    "sstkd": [
        ({"w_str": -0.5}, "not be negative"),
        ({"w_re": float("nan")}, "not be negative"),
        ({"w_sta": -1.0}, "not be negative"),
        ({"temperature": 0.0}, "positive"),
        ({"w_adv": -0.1}, "not be negative"),
        ({"stride": 0}, "at least 1"),
        ({"regions": -1}, "at least 0"),
        ({"critic_lr": 0.0}, "positive number"),
        ({"critic_width": 0}, "at least 1"),
        ({"graph_weights": "graph.safetensors"}, "graph_sha256"),
        ({"region_importance": "colour"}, "'texture', 'uncertainty'"),
        ({"stages": ("stage9",)}, "stage1"),
    ],
}
APART = {"critic"}  # terms of what a distiller trains beside the student
ALL = pytest.mark.parametrize("method", METHODS)
ON_PAIRS = pytest.mark.parametrize("pair", PAIRS)


@functools.cache
def network(architecture: str, encoder: str) -> tuple[SegNet, NetworkInfo]:
    """Built once; tests leave it in eval mode and without gradients."""
    net = build(Network(architecture=architecture, encoder=encoder), CLASSES, seed=5).eval()
    return net, net.info()


def student_of(pair: str) -> SegNet:
    return network(*PAIRS[pair][1])[0]


def teacher_of(pair: str) -> SegNet:
    return network(*PAIRS[pair][0])[0]


def info(pair: str) -> Pair:
    teacher, student = PAIRS[pair]
    return Pair(network(*student)[1], network(*teacher)[1], CLASSES, IGNORE)


def image_of(count: int = 2, height: int = 64, width: int = 64) -> Tensor:
    return torch.randn(count, 3, height, width, generator=torch.Generator().manual_seed(1))


def labels_of(count: int = 2, height: int = 64, width: int = 64) -> Tensor:
    labels = torch.randint(0, CLASSES, (count, height, width), generator=torch.Generator().manual_seed(2))
    labels[:, :7] = IGNORE
    return labels


def stream(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def distiller_of(method: str, pair: str = "fpn", seed: int = 0) -> Distiller:
    return build_method(Method(name=method), info(pair), seed).train()


@torch.no_grad()
def taps_of(net: SegNet, *size: int) -> Taps:
    return net(image_of(*size))


def view_of(pair: str, *size: int, labels: Tensor | None = None, progress: float = 0.5, seed: int = 0) -> View:
    student, teacher = taps_of(student_of(pair), *size), taps_of(teacher_of(pair), *size)
    return View(student, teacher, labels_of(*size) if labels is None else labels, progress, stream(seed))


def values(terms: dict[str, Tensor]) -> dict[str, float]:
    return {name: float(value.detach()) for name, value in terms.items()}


def check_terms(method: str, terms: dict[str, Tensor]) -> None:
    assert bool(terms) == METHODS[method].needs_teacher
    for name, value in terms.items():
        assert isinstance(name, str) and re.fullmatch(r"[a-z][a-z0-9_]*", name) and name != "task"
        assert value.ndim == 0 and value.is_floating_point()
        assert torch.isfinite(value), name


@ALL
@ON_PAIRS
def test_terms_and_gradients(method: str, pair: str) -> None:
    student, teacher = student_of(pair), teacher_of(pair)
    distiller = distiller_of(method, pair)
    before = {name: value.clone() for name, value in teacher.state_dict().items()}
    with torch.no_grad():
        taught = teacher(image_of()).detach()
    copies = {name: x.clone() for name, x in taught.stages.items()} | {"logits": taught.logits.clone()}
    terms = KDStep(student, distiller, IGNORE)(image_of(), labels_of(), taught, torch.tensor(100.0), 0.5, stream())
    task = terms.pop("task")
    check_terms(method, terms)
    try:
        sum(terms.values(), start=0 * task).backward()
        reached = [p for p in student.parameters() if p.grad is not None and p.grad.abs().max() > 0]
        assert bool(reached) == bool(terms), "a distiller's own terms, without the task, move the student"
        assert all(p.grad is None or p.grad.isfinite().all() for p in student.parameters())
        own = distiller.own_optimizer()
        apart = {id(p) for p in own.parameters} if own is not None else set()
        for name, parameter in distiller.named_parameters():
            # What is trained apart may begin where a gradient is 0, such as the attention of a critic.
            least = 0.0 if id(parameter) in apart else 1e-45
            assert not parameter.requires_grad or parameter.grad.abs().max() >= least, name
        assert all(p.grad is None for p in teacher.parameters())
    finally:
        student.zero_grad(set_to_none=True)
    assert all(torch.equal(value, before[name]) for name, value in teacher.state_dict().items())
    after = {**taught.stages, "logits": taught.logits}
    assert all(torch.equal(after[name], x) for name, x in copies.items()), "the teacher's maps were written to"


@ALL
def test_no_parameter_of_the_method_is_idle_in_a_whole_step(method: str) -> None:
    step = KDStep(student_of("fpn"), distiller_of(method), IGNORE)
    terms = step(image_of(), labels_of(), taps_of(teacher_of("fpn")), torch.tensor(100.0), 0.5, stream())
    try:
        sum(terms.values()).backward()
        assert [name for name, p in step.named_parameters() if p.requires_grad and p.grad is None] == []
    finally:
        step.zero_grad(set_to_none=True)


@ALL
@ON_PAIRS
def test_identical_taps_are_the_minimum(method: str, pair: str) -> None:
    """A method that trains nothing of its own gives 0 and no gradient for a student that equals the teacher."""
    teacher, known = taps_of(teacher_of(pair)), network(*PAIRS[pair][0])[1]
    distiller = build_method(Method(name=method), Pair(known, known, CLASSES, IGNORE), 0)
    student = Taps(teacher.stages, teacher.decoder, teacher.logits.clone().requires_grad_(True), teacher.full)
    equal = distiller(View(student, teacher, labels_of(), 0.5, stream()))
    shifted = Taps(
        teacher.stages,
        teacher.decoder,
        teacher.logits + torch.randn(teacher.logits.shape, generator=stream()),
        teacher.full,
    )
    other = distiller(View(shifted, teacher, labels_of(), 0.5, stream()))
    compared = set(equal) if not list(distiller.parameters()) else set(equal) & {"response"}
    assert compared or not METHODS[method].needs_teacher
    for name in compared:
        assert abs(equal[name].item()) < 1e-5
        assert other[name] > 1e-4 > equal[name]
        (gradient,) = torch.autograd.grad(equal[name], student.logits)
        assert gradient.abs().max() < 1e-5


@ALL
@pytest.mark.parametrize("size", [(1, 64, 64), (2, 50, 70), (1, 33, 97), (1, 96, 32)])
@pytest.mark.parametrize("pair", ["strides-8-and-1", "transformer-teacher"])
def test_batch_of_one_and_odd_sizes(method: str, pair: str, size: tuple[int, int, int]) -> None:
    check_terms(method, distiller_of(method, pair)(view_of(pair, *size)))


@ALL
@pytest.mark.parametrize("share", ["one image", "all"])
def test_ignored_labels_give_no_nan(method: str, share: str) -> None:
    labels = labels_of()
    labels[: 1 if share == "one image" else 2] = IGNORE
    check_terms(method, distiller_of(method)(view_of("fpn", labels=labels)))


@ALL
@pytest.mark.parametrize("progress", [0.0, 1.0])
def test_both_ends_of_the_training(method: str, progress: float) -> None:
    check_terms(method, distiller_of(method)(view_of("fpn", progress=progress)))


@ALL
def test_a_constant_teacher_gives_no_nan(method: str) -> None:
    """Zero norms and zero ranges: every map of the teacher is flat."""
    view = view_of("fpn")
    taught = view.taught()
    flat = Taps(
        {name: torch.zeros_like(x) for name, x in taught.stages.items()},
        torch.zeros_like(taught.decoder),
        torch.zeros_like(taught.logits),
        torch.zeros_like(taught.full),
    )
    distiller = distiller_of(method)
    logits = view.student.logits.clone().requires_grad_(True)
    stages = {name: x.clone().requires_grad_(True) for name, x in view.student.stages.items()}
    student = Taps(stages, view.student.decoder, logits, view.student.full)
    terms = distiller(View(student, flat, view.labels, 0.5, stream()))
    check_terms(method, terms)
    if terms:
        sum(terms.values()).backward()
    leaves = [logits, *stages.values(), *distiller.parameters()]
    assert all(x.grad is None or x.grad.isfinite().all() for x in leaves)


@ALL
@ON_PAIRS
def test_bf16_autocast_is_finite_and_near_float32(method: str, pair: str) -> None:
    distiller = distiller_of(method, pair)
    view = view_of(pair)
    with torch.autocast("cpu", torch.bfloat16), torch.no_grad():
        student, teacher = student_of(pair)(image_of()), teacher_of(pair)(image_of())
        assert student.logits.dtype == torch.bfloat16
        terms = copy.deepcopy(distiller)(View(student, teacher, view.labels, 0.5, stream()))
    check_terms(method, terms)
    assert all(value.dtype == torch.float32 for value in terms.values())
    whole = values(distiller(view))
    assert values(terms) == pytest.approx(whole, rel=0.2, abs=1e-2)


@ALL
def test_state_dict_and_pickle_keep_the_value(method: str) -> None:
    first, second = distiller_of(method, seed=0), distiller_of(method, seed=1)
    # Copies before the first call, which may move running statistics.
    clones = [copy.deepcopy(first), pickle.loads(pickle.dumps(first))]
    expected = values(first(view_of("fpn")))
    if list(first.parameters()):
        assert values(second(view_of("fpn"))) != expected
    second.load_state_dict(distiller_of(method, seed=0).state_dict())
    for other in (second, *clones):
        assert values(other(view_of("fpn"))) == expected


@ALL
def test_only_the_given_stream_is_drawn_from(method: str) -> None:
    distiller = distiller_of(method).eval()  # eval: running statistics would change between the calls
    torch.manual_seed(1)
    before = torch.get_rng_state()
    first = values(distiller(view_of("fpn", seed=3)))
    assert torch.equal(torch.get_rng_state(), before)
    torch.manual_seed(2)
    assert values(distiller(view_of("fpn", seed=3))) == first


@ALL
def test_building_moves_no_global_stream_and_follows_its_seed(method: str) -> None:
    torch.manual_seed(1)
    before = torch.get_rng_state()
    first = distiller_of(method, seed=4)
    assert torch.equal(torch.get_rng_state(), before)
    torch.manual_seed(2)
    again = distiller_of(method, seed=4)
    assert all(torch.equal(a, b) for a, b in zip(first.parameters(), again.parameters(), strict=True))


@ALL
def test_wrong_values_are_refused_with_given_and_allowed(method: str) -> None:
    parameters = inspect.signature(METHODS[method]).parameters
    for changed, allowed in WRONG[method]:
        assert changed.keys() <= parameters.keys()
        with pytest.raises(ValueError) as caught:
            METHODS[method](info("fpn"), **changed)
        assert allowed in str(caught.value)
        (value,) = changed.values()
        assert str(value[0] if isinstance(value, tuple) else value) in str(caught.value)


def test_every_method_lists_its_wrong_values() -> None:
    assert WRONG.keys() == METHODS.keys()
    for name, kind in METHODS.items():
        tuned = set(kind.space)
        assert tuned <= {key for changed, _ in WRONG[name] for key in changed}


def test_the_table_read_from_source_is_the_table() -> None:
    table = signatures.table("harness.distillers", "METHODS")
    assert list(table) == list(METHODS)
    for name, kind in METHODS.items():
        entry = table[name]
        assert entry.target == f"{kind.__module__}:{kind.__qualname__}"
        declared = inspect.signature(kind).parameters
        assert next(iter(declared)) == "pair"
        own = {key: p for key, p in declared.items() if key != "pair"}
        assert all(p.kind is p.KEYWORD_ONLY and p.default is not p.empty for p in own.values())
        fields = entry.parameters.model_fields
        assert {key: p.default for key, p in own.items()} == {key: field.default for key, field in fields.items()}
        assert entry.constants.get("needs_teacher", True) == kind.needs_teacher


@ALL
def test_class_contract(method: str) -> None:
    kind = METHODS[method]
    assert kind.__mro__[1] is Distiller and issubclass(kind, nn.Module), "inheritance depth 1"
    parameters = inspect.signature(kind).parameters
    for name, (low, high) in kind.space.items():
        assert 0 < low <= parameters[name].default <= high and low < high
    module = importlib.import_module(kind.__module__)
    doc = module.__doc__ or ""
    assert re.search(r"(?i)reduction|mean (over|of)", doc)
    assert " = " in doc, "the equation"
    if kind.needs_teacher:
        assert re.search(r"(19|20)\d\d", kind.paper) and re.search(r"arXiv \d{4}\.\d{4,5}", doc)
        assert kind.space
    assert kind.skip(info("fpn")) is None


def test_what_does_not_apply_is_refused_with_the_reason() -> None:
    for parameters in ({"stages": ["stem"]}, {"stages": ["stage1", "stem"]}):
        with pytest.raises(ValueError, match=r"sstkd\(.*does not apply to this pair: the teacher has no tap stem"):
            build_method(Method(name="sstkd", parameters=parameters), info("no-stem"), 0)


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
    built = build_method(Method(name="outside_method:Half", parameters={"sizes": [2, 3]}), info("fpn"), 0)
    assert (built.weight, built.sizes, built.classes) == (0.5, (2, 3), CLASSES)
    with pytest.raises(ValueError, match="outside_method:Stranger is no subclass of"):
        build_method(Method(name="outside_method:Stranger"), info("fpn"), 0)


def test_a_method_without_teacher_taps_says_why() -> None:
    view = view_of("fpn")
    alone = View(view.student, None, view.labels, 0.5, stream())
    for name, kind in METHODS.items():
        distiller = distiller_of(name)
        if kind.needs_teacher:
            with pytest.raises(ValueError, match="needs_teacher = False"):
                distiller(alone)
        else:
            assert distiller(alone) == {}


def test_the_base_class_has_no_forward_of_its_own() -> None:
    with pytest.raises(TypeError, match="Distiller has no forward"):
        Distiller()(view_of("fpn"))


@ALL
def test_weight_scales_the_terms(method: str) -> None:
    """Terms are already weighted, and linearly so; but for the loss of what is trained apart, which has no weight."""
    parameters = inspect.signature(METHODS[method]).parameters
    weights = {name: p.default for name, p in parameters.items() if name == "weight" or re.fullmatch(r"w_\w+", name)}
    assert bool(weights) == METHODS[method].needs_teacher
    once = values(distiller_of(method).eval()(view_of("fpn")))
    doubled = {name: 2 * value for name, value in weights.items()}
    twice = build_method(Method(name=method, parameters=doubled), info("fpn"), 0).eval()(view_of("fpn"))
    factor = {name: 1 if name in APART else 2 for name in once}
    assert values(twice) == pytest.approx({name: factor[name] * value for name, value in once.items()}, rel=1e-5)


@ALL
def test_what_is_trained_apart_is_reached_by_its_own_terms_alone(method: str) -> None:
    student, distiller = student_of("fpn"), distiller_of(method)
    own = distiller.own_optimizer()
    terms = KDStep(student, distiller, IGNORE)(
        image_of(), labels_of(), taps_of(teacher_of("fpn")), torch.tensor(100.0), 0.5, stream()
    )
    assert (own is not None) == bool(APART & terms.keys())
    if own is None:
        return
    apart = {id(p) for p in own.parameters}
    rest = [p for p in (*student.parameters(), *distiller.parameters()) if id(p) not in apart and p.requires_grad]
    for name, value in terms.items():
        inside = torch.autograd.grad(value, own.parameters, retain_graph=True, allow_unused=True)
        outside = torch.autograd.grad(value, rest, retain_graph=True, allow_unused=True)
        assert any(g is not None for g in inside) == (name in APART), name
        assert any(g is not None for g in outside) == (name not in APART), name
