"""kd_loss and cwd_loss against numbers that the authors' code printed, and against the equations written out densely.

distillers/INDEX.json describes every case and convention. IDENTITY says how each convention's number follows from our
canonical one; a convention without an identity, or without a stated reason why it has none, fails.
"""

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from harness.distillers import Distiller
from harness.distillers._ops import cwd_loss, kd_loss, match_size
from harness.distillers.cwd import CWD
from harness.distillers.kd import KD
from harness.taps import NetworkInfo, Pair, TapInfo, Taps, View

HERE = Path(__file__).parent / "distillers"
SHARED = Path(__file__).parents[3] / "shared" / "oracles" / "distillers"
INDEX: dict[str, Any] = json.loads((HERE / "INDEX.json").read_text())
METHODS = ("pixel_kd", "cwd")
Inputs = dict[str, Tensor]

NOT_OURS = {
    ("cwd", "mse_modes"): "squared differences of normalised maps: another loss of the same file, not offered by CWD",
}


def entropy(logits: Tensor, temperature: float, dim: int) -> Tensor:
    """Sum over all distributions of -sum p log p."""
    p = F.softmax(logits / temperature, dim)
    return -(p * F.log_softmax(logits / temperature, dim)).sum()


def kd(x: Inputs, hyper: dict[str, Any]) -> Tensor:
    return kd_loss(x["logits_s"], x["logits_t"], hyper["T"])


def skd(x: Inputs, hyper: dict[str, Any]) -> Tensor:
    n, _, h, w = x["logits_t"].shape
    return n * (kd(x, hyper) + entropy(x["logits_t"], 1.0, 1) / (n * h * w))


def upsampled(x: Inputs, hyper: dict[str, Any]) -> Tensor:
    k = hyper["upsample"]
    big = {key: F.interpolate(v, scale_factor=k, mode="bilinear", align_corners=True) for key, v in x.items()}
    return kd(big, hyper) / x["logits_t"].shape[1]


def projected(x: Inputs, bias: bool) -> Tensor:
    if "conv_w" not in x:
        return x["pred_s"]
    return F.conv2d(x["pred_s"], x["conv_w"], x["conv_b"] if bias else None)


def cwd(x: Inputs, hyper: dict[str, Any]) -> Tensor:
    return cwd_loss(x["pred_s"], x["pred_t"], hyper["tau"])


def cwd_per_student_channel(x: Inputs, hyper: dict[str, Any]) -> Tensor:
    canonical = cwd_loss(projected(x, bias=False), x["pred_t"], hyper["tau"])
    return canonical * x["pred_t"].shape[1] / x["pred_s"].shape[1]


def cwd_cross_entropy(x: Inputs, hyper: dict[str, Any]) -> Tensor:
    n, channels = x["pred_t"].shape[:2]
    tau = hyper["tau"]
    canonical = cwd_loss(projected(x, bias=True), x["pred_t"], tau)
    constant = tau**2 * entropy(x["pred_t"].flatten(2), tau, 2) / (n * channels)
    return (canonical + constant) * channels / x["pred_s"].shape[1]


def per_class(x: Inputs, hyper: dict[str, Any]) -> Tensor:
    return kd(x, hyper) / (hyper["T"] ** 2 * x["logits_t"].shape[1])


def per_image(x: Inputs, hyper: dict[str, Any]) -> Tensor:
    return kd(x, hyper) * x["logits_t"].shape[2] * x["logits_t"].shape[3]


# (method, convention without its temperature) -> the authors' number out of ours.
IDENTITY: dict[tuple[str, str], Callable[[Inputs, dict[str, Any]], Tensor]] = {
    ("pixel_kd", "cirkd"): kd,
    ("pixel_kd", "torchdistiller-spatial-kl"): kd,
    ("pixel_kd", "skd-authors"): skd,
    ("pixel_kd", "ifvd-authors"): per_class,
    ("pixel_kd", "mmrazor"): per_image,
    ("pixel_kd", "repdistiller"): per_image,
    ("pixel_kd", "skd-cvpr19-up8"): upsampled,
    ("cwd", "torchdistiller"): cwd,
    ("cwd", "mmrazor"): cwd,
    ("cwd", "cirkd"): cwd_per_student_channel,
    ("cwd", "mmseg-distiller"): cwd_cross_entropy,
}


def rows(index: dict[str, Any]) -> list[Any]:
    return [
        pytest.param(case, convention, id=f"{case['method']}-{case['case']}-{convention['convention']}")
        for case in index["cases"]
        if case["method"] in METHODS
        for convention in case["conventions"]
    ]


def read(case: dict[str, Any], folder: Path = HERE) -> dict[str, Tensor]:
    with np.load(folder / case["file"]) as file:
        return {key: torch.from_numpy(file[key]) for key in file.files if key.startswith(case["case"] + "/")}


@pytest.mark.parametrize(("case", "convention"), rows(INDEX))
def test_authors_number(case: dict[str, Any], convention: dict[str, Any]) -> None:
    stem, _, last = convention["convention"].rpartition("-")
    name = stem if last.lower() in ("t1", "t4", "tau1", "tau4") else convention["convention"]
    identity = IDENTITY[case["method"], name]
    stored = read(case)
    x = {key: stored[item["key"]].clone().requires_grad_(True) for key, item in case["inputs"].items()}
    loss = identity(x, convention["hyperparameters"])
    loss.backward()

    expected = float(stored[convention["outputs"]["loss"]["key"]])
    # student == teacher: 0 up to the rounding of sums of terms of order 1
    assert abs(loss.item() - expected) <= max(1e-9 * abs(expected), 1e-14), (loss.item(), expected)
    for key, item in convention["outputs"].items():
        if key.startswith("grad/"):
            gradient, wanted = x[key.removeprefix("grad/")].grad, stored[item["key"]].double()
            assert gradient is not None and gradient.shape == wanted.shape
            assert (gradient - wanted).abs().max() <= max(1e-6 * float(wanted.abs().max()), 1e-12), key


def test_every_identity_is_proved_by_a_case_with_a_loss_above_zero() -> None:
    seen = set()
    for case in INDEX["cases"]:
        for convention in case["conventions"]:
            stem, _, last = convention["convention"].rpartition("-")
            name = stem if last.lower() in ("t1", "t4", "tau1", "tau4") else convention["convention"]
            if convention["outputs"]["loss"]["value"] > 1e-3:
                seen.add((case["method"], name))
    assert seen == IDENTITY.keys()


@pytest.mark.skipif(not SHARED.is_dir(), reason="the full set of oracles is not beside this checkout")
def test_the_copy_is_the_original_and_leaves_nothing_out_silently() -> None:
    original = json.loads((SHARED / "INDEX.json").read_text())
    ours = {(case["method"], case["case"]): case for case in INDEX["cases"]}
    for case in original["cases"]:
        key = case["method"], case["case"]
        if case["method"] not in METHODS or key in NOT_OURS:
            assert key not in ours
        else:
            assert ours[key] == case
            one, other = read(case), read(case, SHARED)
            assert one.keys() == other.keys() and len(one) > 3
            assert all(torch.equal(one[name], value) for name, value in other.items())


# The equations, written out.


def dense_kd(student: np.ndarray, teacher: np.ndarray, temperature: float) -> float:
    n, classes, h, w = student.shape
    total = 0.0
    for i in range(n):
        for y in range(h):
            for x in range(w):
                total += divergence(student[i, :, y, x], teacher[i, :, y, x], temperature)
    assert classes == teacher.shape[1]
    return temperature**2 * total / (n * h * w)


def dense_cwd(student: np.ndarray, teacher: np.ndarray, tau: float) -> float:
    n, channels = student.shape[:2]
    pairs = [(student[i, c].ravel(), teacher[i, c].ravel()) for i in range(n) for c in range(channels)]
    return tau**2 * sum(divergence(s, t, tau) for s, t in pairs) / (n * channels)


def divergence(student: np.ndarray, teacher: np.ndarray, temperature: float) -> float:
    """KL(softmax(teacher / T) || softmax(student / T)) of two vectors, in exact order of the definition."""

    def log_softmax(x: np.ndarray) -> list[float]:
        x = x / temperature
        top = max(x)
        norm = top + math.log(math.fsum(math.exp(v - top) for v in x))
        return [v - norm for v in x]

    p, q = log_softmax(teacher), log_softmax(student)
    return math.fsum(math.exp(a) * (a - b) for a, b in zip(p, q, strict=True))


@settings(max_examples=60, deadline=None, derandomize=True)
@given(
    shape=st.tuples(st.integers(1, 3), st.integers(1, 6), st.integers(1, 5), st.integers(1, 5)),
    temperature=st.sampled_from([0.5, 1.0, 3.0, 4.0]),
    scale=st.sampled_from([0.1, 1.0, 20.0]),
    seed=st.integers(0, 2**32 - 1),
)
@pytest.mark.parametrize(("loss", "dense"), [(kd_loss, dense_kd), (cwd_loss, dense_cwd)])
def test_equation(
    loss: Callable[..., Tensor],
    dense: Callable[..., float],
    shape: tuple[int, ...],
    temperature: float,
    scale: float,
    seed: int,
) -> None:
    rng = np.random.default_rng(seed)
    student, teacher = rng.normal(0, scale, shape), rng.normal(0, scale, shape)
    expected = dense(student, teacher, temperature)
    found = loss(torch.from_numpy(student), torch.from_numpy(teacher), temperature)
    assert found.ndim == 0
    assert float(found) == pytest.approx(expected, rel=1e-9, abs=1e-13)


@pytest.mark.parametrize("loss", [kd_loss, cwd_loss])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_peaked_maps_give_the_number_and_no_nan(loss: Callable[..., Tensor], dtype: torch.dtype) -> None:
    """softmax().log() gives -inf * 0 = NaN here; the divergence is the gap of the two peaks."""
    size = (1, 2, 1, 1) if loss is kd_loss else (1, 1, 1, 2)
    teacher = torch.tensor([1000.0, 0.0], dtype=dtype).view(size)
    student = torch.tensor([0.0, 1000.0], dtype=dtype).view(size).requires_grad_(True)
    value = loss(student, teacher, 1.0)
    value.backward()
    assert value.item() == pytest.approx(1000.0, rel=1e-6)
    assert student.grad is not None and student.grad.isfinite().all()
    assert float(loss(teacher, teacher, 1.0)) == 0.0


@pytest.mark.parametrize("loss", [kd_loss, cwd_loss])
def test_gradient_by_finite_differences_and_its_sign(loss: Callable[..., Tensor]) -> None:
    rng = np.random.default_rng(0)
    teacher = torch.from_numpy(rng.normal(size=(2, 3, 2, 4)))
    student = torch.from_numpy(rng.normal(size=(2, 3, 2, 4))).requires_grad_(True)
    assert torch.autograd.gradcheck(lambda x: loss(x, teacher, 2.0), (student,))
    before = loss(student, teacher, 2.0)
    before.backward()
    with torch.no_grad():
        assert loss(student - 0.1 * student.grad, teacher, 2.0) < before


@pytest.mark.parametrize("loss", [kd_loss, cwd_loss])
def test_half_precision_maps_are_summed_in_float32(loss: Callable[..., Tensor]) -> None:
    rng = np.random.default_rng(0)
    student, teacher = (torch.from_numpy(rng.normal(size=(2, 5, 40, 40))).bfloat16() for _ in range(2))
    found = loss(student, teacher, 4.0)
    assert found.dtype == torch.float32
    assert float(found) == pytest.approx(float(loss(student.double(), teacher.double(), 4.0)), rel=1e-5)


def test_sizes_are_matched_with_half_pixel_centres() -> None:
    """Two cells spread over four: their centres lie between the outer and inner ones, not on the outer."""
    x, like = torch.tensor([0.0, 1.0]).view(1, 1, 1, 2), torch.zeros(1, 3, 1, 4)
    assert match_size(x, like).flatten().tolist() == pytest.approx([0.0, 0.25, 0.75, 1.0])
    assert match_size(x, x) is x


@pytest.mark.parametrize(("kind", "loss", "last"), [(KD, kd_loss, "temperature"), (CWD, cwd_loss, "tau")])
def test_the_student_is_resized_to_the_teacher_and_the_loss_weighted(
    kind: type[Distiller], loss: Callable[..., Tensor], last: str
) -> None:
    rng = np.random.default_rng(0)
    student, teacher = (torch.from_numpy(rng.normal(size=(2, 3, *hw))) for hw in ((4, 6), (5, 3)))
    known = NetworkInfo({}, TapInfo(8, 4), TapInfo(3, 4))
    weight = "weight" if kind is KD else "logits"
    distiller = kind(Pair(known, known, 3), **{weight: 2.5, last: 3.0})
    taps = [Taps({}, logits, logits, logits) for logits in (student, teacher)]
    (value,) = distiller(View(*taps, torch.zeros(2, 20, 12).long(), 0.0, torch.Generator())).values()
    resized = F.interpolate(student, (5, 3), mode="bilinear", align_corners=False)
    assert value.item() == pytest.approx(2.5 * loss(resized, teacher, 3.0).item(), rel=1e-12)
