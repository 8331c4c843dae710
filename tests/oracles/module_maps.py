"""From the authors' modules to ours: SKD's critic and its losses, and STLNet's texture modules."""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.func import functional_call

from sstkd.critic import HolisticCritic, critic_loss, generator_loss, gradient_penalty
from sstkd.stlnet import PTFEM, STL, TEM, QCO1d, QCO2d
from tests.oracles.distiller_maps import MAPS, Map
from tests.oracles.oracle_folder import Found, Hyper, Inputs


def adversarial(x: Inputs, hyper: Hyper) -> Found:
    fake, real = x["d_out_s"], x["d_out_t"]
    return Found({"generator": generator_loss(fake), "critic": critic_loss(fake, real, hyper["adv_type"])}, x)


def penalty(x: Inputs, hyper: Hyper) -> Found:
    def critic(scores: Tensor) -> Tensor:
        hidden = F.conv2d(scores, x["c1_w"], x["c1_b"], stride=2, padding=1).tanh()
        return F.conv2d(hidden, x["c2_w"], x["c2_b"], stride=2, padding=1)

    maps = [x[name].detach() for name in ("logits_s", "logits_t", "gp_alpha")]
    return Found({"loss": gradient_penalty(critic, *maps, hyper["lambda_gp"])}, x)  # type: ignore[arg-type]


def critic_name(name: str) -> str:
    """`sd.l4.0.module.weight_bar` is our `convolutions.3.weight`."""
    name = name.removeprefix("sd.")
    for i in range(4):
        for theirs, ours in (("weight_bar", "weight"), ("weight_u", "u"), ("weight_v", "v"), ("bias", "bias")):
            name = name.replace(f"l{i + 1}.0.module.{theirs}", f"convolutions.{i}.{ours}")
    for i in (1, 2):
        name = name.replace(f"attn{i}.", f"attention.{i - 1}.")
    return name.replace("_conv", "").replace("last.0.", "last.").replace("preprocess_additional.", "norm.")


def discriminator(x: Inputs, hyper: Hyper) -> Found:
    critic = HolisticCritic(x["logits"].shape[1], hyper["conv_dim"]).double().train()
    assert hyper["preprocess_GAN_mode"] == 1
    state = {name: value for name, value in x.items() if name.startswith("sd.")}
    buffers = {critic_name(name) for name in state} - dict(critic.named_parameters()).keys()
    given = {critic_name(name): value for name, value in state.items()}
    given |= {name: given[name].detach().clone() for name in buffers}  # moved in place
    assert given.keys() == critic.state_dict().keys()
    out = functional_call(critic, given, (x["logits"],))
    others = {"d_out": out}
    for name in state:
        if critic_name(name) in buffers:
            # The file holds u and v as they were given, although its outputs are those after one power iteration.
            moved = given[critic_name(name)] if "running" in name else state[name]
            others["after/" + name.removeprefix("sd.")] = moved
            assert not torch.equal(given[critic_name(name)], state[name])
    return Found({"mean_d": out.mean()}, x, others)


def texture_module(method: str, x: Inputs, arguments: list[int]) -> nn.Module:
    """The module of ours, of the case's width."""
    channels = x["x"].shape[1]
    if method == "stlnet_qco_1d":
        return QCO1d(*arguments, width=channels)
    if method == "stlnet_qco_2d":
        return QCO2d(*arguments, width=channels)
    if method == "stlnet_tem":
        return TEM(*arguments, width=channels)
    if method == "stlnet_ptfem":
        return PTFEM(*arguments, width=channels // 2)
    assert method == "stlnet_stl"
    return STL(*arguments, levels=8, width=len(x["sd.conv_start.conv.weight"]))


def dense(assignment: tuple[Tensor, Tensor, Tensor], levels: int) -> Tensor:
    """(N, P, levels) table of an assignment's weights."""
    lower, low, high = (part.unsqueeze(-1) for part in assignment)
    return low.new_zeros(*low.shape[:2], levels).scatter(2, lower, low).scatter(2, lower + 1, high)


def stlnet(method: str) -> Map:
    def run(x: Inputs, hyper: Hyper) -> Found:
        module = texture_module(method, x, hyper["args"]).double().train(hyper["mode"] == "train")
        given = {name.removeprefix("sd."): value for name, value in x.items() if name.startswith("sd.")}
        buffers = dict(module.named_buffers())
        given |= {name: given[name].detach().clone() for name in given.keys() & buffers.keys()}
        counters = {name for name in buffers if name.endswith("num_batches_tracked")}
        assert given.keys() == module.state_dict().keys() - counters
        found: Any = functional_call(module, given, (x["x"],))
        out, *rest = found if isinstance(found, tuple) else (found,)
        others = {"out": out} | {f"after/{name}": given[name] for name in given.keys() & buffers.keys()}
        if rest:
            others["quant"] = dense(rest[0], hyper["args"][0])
        return Found({"loss": (out * x["cotangent"]).sum()}, x, others)

    return run


STLNET = tuple(f"stlnet_{name}" for name in ("qco_1d", "qco_2d", "tem", "ptfem", "stl"))

MODULE_MAPS: dict[tuple[str, str], Map] = {
    **{
        ("skd_holistic", f"{who}-{kind}"): adversarial
        for who in ("skd-authors", "cirkd")
        for kind in ("wgan-gp", "hinge")
    },
    **{("skd_holistic", f"{who}-gp"): penalty for who in ("skd-authors", "ifvd-authors", "cirkd")},
    ("skd_discriminator", "cirkd"): discriminator,
    **{(method, "stlnet-authors"): stlnet(method) for method in STLNET},
}

ALL_MAPS: dict[tuple[str, str], Map] = MAPS | MODULE_MAPS
