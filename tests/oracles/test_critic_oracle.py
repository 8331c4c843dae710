"""The critic and the adversarial losses against numbers that the authors' code printed.

critic/INDEX.json (or that of `--distiller-oracles DIR`) describes the cases: SKD's discriminator at a sixteenth of its
widths, forward and backward in train mode, and the three losses of SKD's, IFVD's and CIRKD's code.
"""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from sstkd.critic import HolisticCritic, critic_loss, generator_loss, gradient_penalty

HERE = Path(__file__).parent / "critic"
METHODS = ("skd_discriminator", "skd_holistic")


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if "convention" not in metafunc.fixturenames:
        return
    folder = Path(metafunc.config.getoption("--distiller-oracles", default=None) or HERE)
    cases = [case for case in json.loads((folder / "INDEX.json").read_text())["cases"] if case["method"] in METHODS]
    found = [(folder, case, convention) for case in cases for convention in case["conventions"]]
    names = [f"{case['method']}-{case['case']}-{convention['convention']}" for _, case, convention in found]
    metafunc.parametrize(("folder", "case", "convention"), found, ids=names)


def read(folder: Path, case: dict[str, Any], items: dict[str, Any]) -> dict[str, Tensor]:
    with np.load(folder / case["file"]) as file:
        return {name: torch.from_numpy(file[item["key"]]).double() for name, item in items.items()}


def same(ours: Tensor, theirs: Tensor, name: str, relative: float = 1e-6) -> None:
    assert ours.shape == theirs.shape, name
    assert float((ours.detach() - theirs).abs().max()) <= max(relative * float(theirs.abs().max()), 1e-12), name


def test_authors_number(folder: Path, case: dict[str, Any], convention: dict[str, Any]) -> None:
    x = read(folder, case, case["inputs"])
    wanted = read(folder, case, convention["outputs"])
    if case["method"] == "skd_discriminator":
        check_critic(x, wanted)
    elif convention["convention"].endswith("-gp") and "adv_type" not in convention["hyperparameters"]:
        check_penalty(x, wanted, convention["hyperparameters"]["lambda_gp"])
    else:
        check_losses(x, wanted, convention["hyperparameters"]["adv_type"])


def ours_of(name: str) -> str:
    """`sd.l4.0.module.weight_bar` is our `convolutions.3.weight`."""
    name = name.removeprefix("sd.")
    for i in range(4):
        for theirs, ours in (
            ("weight_bar", "weight"),
            ("weight_u", "u"),
            ("weight_v", "v"),
            ("bias", "bias"),
        ):
            name = name.replace(f"l{i + 1}.0.module.{theirs}", f"convolutions.{i}.{ours}")
    for i in (1, 2):
        name = name.replace(f"attn{i}.", f"attention.{i - 1}.")
    return name.replace("_conv", "").replace("last.0.", "last.").replace("preprocess_additional.", "norm.")


def check_critic(x: dict[str, Tensor], wanted: dict[str, Tensor]) -> None:
    classes, width = x["logits"].shape[1], x["sd.l1.0.module.bias"].numel()
    critic = HolisticCritic(classes, width).double().train()
    critic.load_state_dict({ours_of(name): value for name, value in x.items() if name.startswith("sd.")}, strict=True)
    logits = x["logits"].requires_grad_()
    out = critic(logits)
    same(out, wanted["d_out"], "d_out", 1e-9)
    mean = out.mean()
    assert float(mean.detach()) == pytest.approx(float(wanted["mean_d"]), rel=1e-9)
    mean.backward()
    parameters, state = dict(critic.named_parameters()), critic.state_dict()
    checked = 0
    for name, value in wanted.items():
        if name.startswith("grad/"):
            ours = logits.grad if name == "grad/logits" else parameters[ours_of(name.removeprefix("grad/"))].grad
            same(ours, value, name)
            checked += 1
        elif name.startswith("after/preprocess"):  # running statistics after one call
            same(state[ours_of(name.removeprefix("after/"))], value, name)
        elif name.startswith("after/"):
            # The file holds u and v as they were given, although its outputs are those after one power iteration.
            assert torch.equal(value, x["sd." + name.removeprefix("after/")])
    assert checked == len(parameters) + 1


class Small(nn.Module):
    """The critic of the oracle's penalty, from its inputs."""

    def __init__(self, x: dict[str, Tensor]) -> None:
        super().__init__()
        self.c1, self.c2 = nn.Conv2d(7, 6, 4, 2, 1).double(), nn.Conv2d(6, 1, 3, 2, 1).double()
        self.load_state_dict(
            {f"{c}.{long}": x[f"{c}_{short}"] for c in ("c1", "c2") for long, short in (("weight", "w"), ("bias", "b"))}
        )

    def forward(self, scores: Tensor) -> Tensor:
        out: Tensor = self.c2(torch.tanh(self.c1(scores)))
        return out


def check_penalty(x: dict[str, Tensor], wanted: dict[str, Tensor], weight: float) -> None:
    critic = Small(x)
    loss = gradient_penalty(critic, x["logits_s"], x["logits_t"], x["gp_alpha"], weight)
    assert float(loss.detach()) == pytest.approx(float(wanted["loss"]), rel=1e-9)
    loss.backward()
    ours = {"grad/c1_w": critic.c1.weight, "grad/c1_b": critic.c1.bias, "grad/c2_w": critic.c2.weight}
    for name, parameter in ours.items():
        same(parameter.grad, wanted[name], name)


def check_losses(x: dict[str, Tensor], wanted: dict[str, Tensor], kind: str) -> None:
    fake, real = x["d_out_s"].requires_grad_(), x["d_out_t"].requires_grad_()
    losses = {"generator": generator_loss(fake), "critic": critic_loss(fake, real, kind)}
    for name, loss in losses.items():
        assert float(loss.detach()) == pytest.approx(float(wanted[name]), rel=1e-9)
        for key, map_ in (("d_out_s", fake), ("d_out_t", real)):
            if f"grad[{name}]/{key}" in wanted:
                (gradient,) = torch.autograd.grad(loss, map_, retain_graph=True)
                same(gradient, wanted[f"grad[{name}]/{key}"], f"{name}/{key}")
