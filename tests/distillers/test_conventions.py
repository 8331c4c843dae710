"""docs/distillers.md: its table of conventions is computed from the losses, its table of methods is what the code says.

`python -m tests.distillers.test_conventions` writes the table of conventions anew.
"""

import inspect
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, Literal, get_args, get_origin, get_type_hints

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from harness.distillers import METHODS
from harness.distillers._ops import attention, cwd_loss, kd_loss, softened_entropy, squared_error
from harness.distillers.at import at_loss
from harness.distillers.kt import kt_loss
from harness.distillers.skd import pairwise_loss
from harness.taps import NetworkInfo, Pair, TapInfo, Taps, View
from sstkd.cdm import CDM
from sstkd.losses import Reduction, statistical_loss, structural_loss
from tests.oracles.not_ours import NOT_OURS
from tests.oracles.oracle_folder import entries

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "docs" / "distillers.md"
START, END = "<!-- computed: conventions -->", "<!-- end -->"

# The example: logits of K classes and features of C channels, the student's own width being C_S.
SIZES: dict[str, float] = {"N": 2, "K": 19, "C": 128, "C_S": 64, "h": 32, "w": 64}


@dataclass(frozen=True)
class Row:
    """A term in one convention.

    Attributes:
        term: as the first column has it.
        convention: value of `convention=`, of SSTKD's `reduction=`; empty where none gives it.
        whose: repositories that have it.
        factor: of the weight on the way to the canonical convention; empty where there is none.
        loss: of the example's student, its gradient and the reference that it is compared with.
        published: weight by whoever published it; 0 where nobody did.
        constant: what the loss has more than the canonical one times the factor.
        values: of the names in `factor` that are not sizes.
    """

    term: str
    convention: str
    whose: str
    factor: str
    loss: Callable[[], tuple[Tensor, Tensor]]
    published: float = 0.0
    constant: Callable[[], Tensor] | None = None
    values: Mapping[str, float] | None = None

    @property
    def number(self) -> float | None:
        """The factor in the example: a space is a product, ^ a power."""
        if not self.factor:
            return None
        product = re.sub(r"(?<=[\w)]) (?=[\w(])", " * ", self.factor).replace("^", "**")
        return float(eval(product, {}, {**SIZES, **(self.values or {})}))

    def cells(self) -> list[str]:
        number = self.number
        published = f"{self.published:g}" if self.published else ""
        if self.published and number not in (None, 1.0):
            published += f" -> {self.published * number:.4g}"
        return [
            self.term,
            f"`{self.convention}`" if self.convention else "not offered",
            self.whose,
            self.factor or "none",
            "" if number is None else f"{number:.4g}",
            published,
            f"{float(self.loss()[0]):.6g}",
        ]


def random(seed: int, *names: str) -> Tensor:
    shape = [int(SIZES[name]) for name in names]
    return torch.from_numpy(np.random.default_rng(seed).standard_normal(shape))


@cache
def maps(kind: str) -> tuple[Tensor, Tensor]:
    """Student's and teacher's, of the seeds 0 and 1; logits are three times as large."""
    channels, scale = ("K", 3.0) if kind == "logits" else ("C", 1.0)
    student, teacher = (scale * random(seed, "N", channels, "h", "w") for seed in (0, 1))
    return student, teacher


def taken(loss: Callable[..., Tensor], kind: str, *rest: Any) -> Callable[[], tuple[Tensor, Tensor]]:
    """The loss of the example and its gradient for the student's map."""

    @cache
    def run() -> tuple[Tensor, Tensor]:
        student, teacher = maps(kind)
        student = student.clone().requires_grad_()
        value = loss(student, teacher, *rest)
        (gradient,) = torch.autograd.grad(value, student)
        return value.detach(), gradient

    return run


def rows() -> list[Row]:
    """Of all terms that have more than one convention; each term's canonical one comes first."""
    found = []
    for temperature in (1.0, 4.0):
        term, values = f"pixel-wise KD, T = {temperature:g}", {"T": temperature}

        def kd(convention: str, temperature: float = temperature) -> Callable[[], tuple[Tensor, Tensor]]:
            return taken(kd_loss, "logits", temperature, convention)

        first = temperature == 1.0
        found.append(Row(term, "canonical", "CIRKD, TorchDistiller (spatial)", "1", kd("canonical"), 1.0 * first))
        if first:
            entropy = lambda: SIZES["N"] * softened_entropy(maps("logits")[1], 1.0, 1).mean()  # noqa: E731
            found.append(Row(term, "skd", "SKD", "N", kd("skd"), 10.0, entropy))
        found.append(Row(term, "ifvd", "IFVD, CWD", "1 / (K T^2)", kd("ifvd"), 10.0 * first, None, values))
        found.append(Row(term, "mmrazor", "mmrazor, torchdistill, RepDistiller", "h w", kd("mmrazor")))
    return found + cwd_rows() + feature_rows() + texture_rows()


def cwd_rows() -> list[Row]:
    """Of channel-wise distillation, on maps of the student's own number of channels and on adapted ones."""
    found = []
    for kind, tau, own, published in (
        ("logits", 4.0, "K", 3.0),
        ("logits", 1.0, "K", 0.0),
        ("features", 4.0, "C_S", 50.0),
    ):
        term, values = f"CWD, {kind}, tau = {tau:g}", {"C": SIZES["K" if kind == "logits" else "C"], "C_S": SIZES[own]}
        factor = values["C"] / values["C_S"]

        def entropy(kind: str = kind, tau: float = tau, factor: float = factor) -> Tensor:
            return tau**2 * factor * softened_entropy(maps(kind)[1].flatten(2), tau, 2).mean()

        losses = {c: taken(cwd_loss, kind, tau, c, int(SIZES[own])) for c in ("canonical", "cirkd", "mmseg")}
        mmseg = 5.0 if kind == "logits" and tau == 1.0 else 0.0
        found += [
            Row(term, "canonical", "TorchDistiller, mmrazor", "1", losses["canonical"], published),
            Row(term, "cirkd", "CIRKD", "C / C_S", losses["cirkd"], published, None, values),
            Row(term, "mmseg", "mmsegmentation-distiller", "C / C_S", losses["mmseg"], mmseg, entropy, values),
        ]
    return found


def feature_rows() -> list[Row]:
    """Those of other terms on features."""

    def norm(student: Tensor, teacher: Tensor) -> Tensor:
        difference = attention(student, teacher) - attention(teacher, teacher)
        return torch.linalg.vector_norm(difference, dim=1).mean()

    def by_own_width(student: Tensor, teacher: Tensor) -> Tensor:
        difference = F.normalize(student, dim=1) - F.normalize(teacher, dim=1)
        return difference.square().sum() / (len(student) * SIZES["C_S"])

    at, pair, kt = "AT", "SKD, pair-wise", "KT, features, mse"
    found = [
        Row(at, "canonical", "the authors, CIRKD, mmrazor, RepDistiller", "1", taken(at_loss, "features"), 10000.0),
        Row(at, "", "the paper's formula; torchdistill", "", taken(norm, "features")),
        Row(pair, "canonical", "SKD", "1", taken(pairwise_loss, "features", 0.5, "canonical"), 1.0),
        Row(pair, "cirkd", "CIRKD", "", taken(pairwise_loss, "features", 0.5, "cirkd"), 10.0),
        Row(kt, "canonical", "this project", "1", taken(kt_loss, "features", "mse")),
        Row(kt, "kt", "KT", "C / C_S", taken(by_own_width, "features"), 1.0),
    ]
    for term, own_name, weight in (("MGD, generation", "mgd", 2e-5), ("Af-DCD, reconstruction", "af-dcd", 2e-6)):
        for convention in ("canonical", own_name):
            loss = taken(squared_error, "features", convention)
            whose, factor = ("this project", "1") if convention == "canonical" else (term.split(",")[0], "C h w")
            found.append(Row(term, convention, whose, factor, loss, weight * (convention == own_name)))
    return found


def texture_rows() -> list[Row]:
    """Of SSTKD's texture terms; a graph's vectors are the features of all positions, one region."""

    def structural(student: Tensor, teacher: Tensor, levels: tuple[int, ...], reduction: Reduction) -> Tensor:
        return structural_loss(CDM(levels)(student - teacher), reduction=reduction)

    def statistical(student: Tensor, teacher: Tensor, reduction: Reduction) -> Tensor:
        ours, theirs = (x.flatten(2).mT.unsqueeze(1) for x in (student, teacher))
        return statistical_loss(ours, theirs, reduction=reduction)

    found = []
    for levels, factor in (((4,), "C B"), ((3, 4), "")):
        term = f"SSTKD, structural, levels {', '.join(map(str, levels))}"
        losses = {r: taken(structural, "features", levels, r) for r in get_args(Reduction)}
        found.append(Row(term, "coefficients", "this project", "1", losses["coefficients"]))
        found.append(Row(term, "positions", "recalled (R)", factor, losses["positions"], values={"B": 2.0**4}))
    term = "SSTKD, statistical, graph"
    losses = {r: taken(statistical, "features", r) for r in get_args(Reduction)}
    found.append(Row(term, "coefficients", "this project", "1", losses["coefficients"]))
    found.append(Row(term, "positions", "recalled (R)", "D", losses["positions"], values={"D": SIZES["C"]}))
    return found


def table() -> str:
    """In Markdown."""
    heads = [
        "term",
        "convention",
        "whose",
        "factor",
        "example: factor",
        "published -> canonical weight",
        "example: loss",
    ]
    lines = [heads, ["---"] * len(heads), *(row.cells() for row in rows())]
    return "\n".join("| " + " | ".join(cells) + " |" for cells in lines)


def page() -> str:
    return PAGE.read_text()


def between(text: str) -> str:
    return text[text.index(START) + len(START) : text.index(END)].strip()


def test_the_table_of_conventions_is_the_computed_one() -> None:
    assert between(page()) == table(), "write it anew: python -m tests.distillers.test_conventions"


@pytest.mark.parametrize("row", rows(), ids=lambda row: f"{row.term}-{row.convention}")
def test_a_factor_is_the_ratio_of_gradients_and_of_losses(row: Row) -> None:
    canonical = next(other for other in rows() if other.term == row.term)
    assert canonical.convention in ("canonical", "coefficients") and canonical.factor == "1"
    (loss, gradient), (other, reference) = row.loss(), canonical.loss()
    # The one constant that is the best factor, and what it leaves of the gradient.
    best = float((gradient * reference).sum() / reference.square().sum())
    left = float((gradient - best * reference).norm() / gradient.norm())
    if row.number is None:
        assert left > 1e-3, "there is a factor"
        return
    assert left < 1e-12 and best == pytest.approx(row.number, rel=1e-12)
    constant = float(row.constant()) if row.constant else 0.0
    assert float(loss) == pytest.approx(row.number * float(other) + constant, rel=1e-12)


def test_every_convention_that_a_method_offers_is_in_the_table() -> None:
    listed = {(row.term.split(",")[0], row.convention) for row in rows()}
    words = {"kd": "pixel-wise KD", "cwd": "CWD", "skd": "SKD", "mgd": "MGD", "af-dcd": "Af-DCD", "kt": "KT"}
    assert {c for term, c in listed if term == "SSTKD"} == set(get_args(Reduction))
    # What names the reduction of a term that another method has, or no reduction.
    others = {("ifvd", "ifvd"), ("ifvd", "canonical"), ("skd", "skd"), ("cirkd", "cirkd"), ("cirkd", "canonical")}
    for name, kind in METHODS.items():
        hint = get_type_hints(kind.__init__).get("convention")
        if hint is not None:
            assert get_origin(hint) is Literal
            for convention in get_args(hint):
                assert (name, convention) in others or (words[name], convention) in listed, (name, convention)


def methods() -> dict[str, list[str]]:
    """Cells of the table of methods, by name."""
    found = re.findall(r"^\| `([\w-]+)` \| (.*) \|$", page().split(START)[0], re.MULTILINE)
    return {name: re.split(r" \| ", cells) for name, cells in found}


def test_every_method_is_in_the_table_with_its_paper() -> None:
    listed = methods()
    assert list(listed) == list(METHODS)
    for name, (_, _, _, _, paper) in listed.items():
        assert paper.split(";")[0].strip() == METHODS[name].paper.strip(), name


def test_weights_in_the_table_are_the_defaults() -> None:
    for name, (_, _, _, weights, _) in methods().items():
        kind = METHODS[name]
        defaults = {key: p.default for key, p in inspect.signature(kind).parameters.items() if key != "pair"}
        named = re.findall(r"`(\w+)=([^`]+)`", weights)
        for key, value in named:
            assert str(defaults[key]) == value or float(defaults[key]) == float(value), (name, key)
        asked = {key for key in kind.weights if key in defaults}
        assert asked <= {key for key, _ in named}, f"{name}: {asked} have no value in the table"


@pytest.mark.parametrize("name", METHODS)
def test_terms_in_the_table_are_those_of_a_step_with_all_weights_on(name: str) -> None:
    kind, generator = METHODS[name], torch.Generator().manual_seed(0)
    channels = {"stage1": 4, "stage2": 8, "decoder": 8, "logits": 3}
    known = {tap: TapInfo(width, 4) for tap, width in channels.items()}
    network = NetworkInfo({tap: known[tap] for tap in ("stage1", "stage2")}, known["decoder"], known["logits"])

    def taps() -> Taps:
        maps = {tap: torch.randn(2, width, 16, 16, generator=generator) for tap, width in channels.items()}
        return Taps({tap: maps[tap] for tap in ("stage1", "stage2")}, maps["decoder"], maps["logits"], maps["logits"])

    student, teacher = taps(), taps()
    signature = inspect.signature(kind).parameters
    # Also those that are off by default.
    weights = {key: 1.0 for key in kind.weights if key in signature}
    distiller = kind(Pair(network, network, 3), **weights)
    labels = torch.randint(3, (2, 64, 64), generator=generator)
    found = distiller(View(student, teacher, labels, 0.0, generator))
    assert re.findall(r"`(\w+)`", methods()[name][0]) == list(found)


def test_the_count_of_reproduced_conventions_is_that_of_the_tests() -> None:
    folder = ROOT / "tests" / "oracles" / "distillers"
    known = {(e.method, e.name): (e.method, e.stem) in NOT_OURS for e in entries(folder)}
    reproduced, total = len(known) - sum(known.values()), len(known)
    assert f"{reproduced} of {total}" in page()


if __name__ == "__main__":
    before, after = page().split(START)[0], page().split(END)[1]
    PAGE.write_text(f"{before}{START}\n\n{table()}\n\n{END}{after}")
