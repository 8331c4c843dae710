"""STLNet's modules against numbers that the authors' code printed: outputs, gradients of input and weights, statistics.

stlnet/INDEX.json describes the cases, at a sixteenth of the released width. `--distiller-oracles DIR` adds the
float64 originals there; those beside this checkout are added by themselves.
"""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from sstkd.stlnet import PTFEM, STL, TEM, QCO1d, QCO2d

HERE = Path(__file__).parent / "stlnet"
SHARED = Path(__file__).parents[3] / "shared" / "oracles" / "distillers"
CASES: list[dict[str, Any]] = json.loads((HERE / "INDEX.json").read_text())["cases"]
WIDTH = 256 // 16


def build(method: str, arguments: list[int]) -> nn.Module:
    if method == "stlnet_qco_1d":
        return QCO1d(*arguments, width=WIDTH)
    if method == "stlnet_qco_2d":
        return QCO2d(*arguments, width=WIDTH)
    if method == "stlnet_tem":
        return TEM(*arguments, width=WIDTH)
    if method == "stlnet_ptfem":
        return PTFEM(*arguments, width=WIDTH)
    assert method == "stlnet_stl"
    return STL(*arguments, levels=8, width=WIDTH)


def dense(assignment: tuple[Tensor, Tensor, Tensor], levels: int) -> Tensor:
    """(N, P, levels) table of an assignment's weights."""
    lower, low, high = (part.unsqueeze(-1) for part in assignment)
    return low.new_zeros(*low.shape[:2], levels).scatter(2, lower, low).scatter(2, lower + 1, high)


@pytest.fixture(params=["committed", "original"])
def folder(request: pytest.FixtureRequest) -> Path:
    if request.param == "committed":
        return HERE
    given = request.config.getoption("--distiller-oracles", default=None)
    path = Path(given) if given else SHARED
    if not given and not path.is_dir():
        pytest.skip("the original oracles are not beside this checkout")
    return path


def read(case: dict[str, Any], folder: Path) -> dict[str, Tensor]:
    with np.load(folder / case["file"]) as file:
        return {key: torch.from_numpy(file[key]) for key in file.files if key.startswith(case["case"] + "/")}


@pytest.mark.parametrize("case", CASES, ids=lambda c: f"{c['method']}-{c['case']}")
def test_authors_numbers(case: dict[str, Any], folder: Path) -> None:
    (convention,) = case["conventions"]
    stored = read(case, folder)
    hyper = convention["hyperparameters"]
    x = {name: stored[item["key"]].double() for name, item in case["inputs"].items()}
    module = build(case["method"], hyper["args"]).double().train(hyper["mode"] == "train")
    state = {name.removeprefix("sd."): value for name, value in x.items() if name.startswith("sd.")}
    missing, unexpected = module.load_state_dict(state, strict=False)
    assert not unexpected and {name.rpartition(".")[2] for name in missing} <= {"num_batches_tracked"}

    image = x["x"].requires_grad_()
    found = module(image)
    out, *rest = found if isinstance(found, tuple) else (found,)
    loss = (out * x["cotangent"]).sum()
    loss.backward()

    expected = float(stored[convention["outputs"]["loss"]["key"]])
    assert loss.item() == pytest.approx(expected, rel=1e-9)
    parameters, state = dict(module.named_parameters()), module.state_dict()
    for name, item in convention["outputs"].items():
        kind, _, what = name.partition("/")
        if kind == "loss":
            continue
        if kind == "grad":
            ours = image.grad if what == "x" else parameters[what.removeprefix("sd.")].grad
        else:
            ours = {"out": out, "after": state.get(what)}.get(kind)
            if kind == "quant":
                ours = dense(rest[0], hyper["args"][0])
        wanted = stored[item["key"]].double()
        assert ours is not None and ours.shape == wanted.shape, name
        assert float((ours.detach() - wanted).abs().max()) <= max(1e-6 * float(wanted.abs().max()), 1e-12), name


def test_every_module_is_covered_in_eval_and_one_in_train_mode() -> None:
    modes = {(case["method"], case["conventions"][0]["hyperparameters"]["mode"]) for case in CASES}
    assert {method for method, _ in modes} == {f"stlnet_{m}" for m in ("qco_1d", "qco_2d", "tem", "ptfem", "stl")}
    assert ("stlnet_tem", "train") in modes


@pytest.mark.parametrize(
    ("module", "parameters"),
    [
        (lambda: QCO1d(128), 664448),
        (lambda: QCO2d(1, 8), 74432),
        (lambda: TEM(128), 746880),
        (PTFEM, 560384),
        (lambda: STL(2048), 1832064),
    ],
)
def test_parameters_of_the_released_widths(module: Any, parameters: int) -> None:
    with torch.device("meta"):
        assert sum(p.numel() for p in module().parameters()) == parameters


@pytest.mark.skipif(not SHARED.is_dir(), reason="the original oracles are not beside this checkout")
def test_the_copy_is_the_original_and_leaves_nothing_out() -> None:
    originals = [
        c for c in json.loads((SHARED / "INDEX.json").read_text())["cases"] if c["method"].startswith("stlnet")
    ]
    assert [(c["method"], c["case"]) for c in originals] == [(c["method"], c["case"]) for c in CASES]
    for case in CASES:
        one, other = read(case, HERE), read(case, SHARED)
        assert one.keys() == other.keys() and len(one) > 20
        for key, value in other.items():
            exact = "/in/" in key or key.endswith("/loss")
            assert torch.equal(one[key].double(), value.double() if exact else value.float().double()), key
