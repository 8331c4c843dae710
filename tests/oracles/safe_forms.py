"""Dense forms, equal to the authors' where those give a number, that give one where those divide 0 by 0."""

import torch
import torch.nn.functional as F
from torch import Tensor

from tests.oracles.distiller_maps import Map
from tests.oracles.oracle_folder import Found, Hyper, Inputs


def log_softmax(x: Tensor, dim: int) -> Tensor:
    """Without the logarithm of a softmax, which is -inf where that is too small for a number."""
    return x - x.logsumexp(dim, keepdim=True)


def compared(student: Tensor, teacher: Tensor, temperature: float, dim: int, entropy: bool) -> Tensor:
    """KL(teacher || student) of softmaxes over `dim`, or with `entropy` the cross-entropy, summed over everything."""
    log_q, log_p = (log_softmax(x / temperature, dim) for x in (student, teacher.detach()))
    return (log_p.exp() * ((0 if entropy else log_p) - log_q)).sum()


def kd(reduction: str) -> Map:
    """Of class distributions: divided by the pixels, all elements, the images, or the positions of one map."""

    def run(x: Inputs, hyper: Hyper) -> Found:
        ours, theirs, temperature = x["logits_s"], x["logits_t"], hyper["T"]
        if "upsample" in hyper:
            k = hyper["upsample"]
            ours, theirs = (
                F.interpolate(v, scale_factor=k, mode="bilinear", align_corners=True) for v in (ours, theirs)
            )
        n, classes, h, w = ours.shape
        total = compared(ours, theirs, temperature, 1, reduction == "positions")
        factor = {
            "pixels": temperature**2 / (n * h * w),
            "elements": 1 / (n * classes * h * w),
            "images": temperature**2 / n,
            "positions": 1 / (h * w),
        }[reduction]
        return Found({"loss": total * factor}, x)

    return run


def cwd(own_width: bool, bias: bool = False, entropy: bool = False) -> Map:
    """Of distributions over positions: divided by the images and the channels of the student or of the map."""

    def run(x: Inputs, hyper: Hyper) -> Found:
        ours, theirs, tau = x["pred_s"], x["pred_t"], hyper["tau"]
        if "conv_w" in x:
            ours = F.conv2d(ours, x["conv_w"], x["conv_b"] if bias else None)
        total = compared(ours.flatten(2), theirs.flatten(2), tau, 2, entropy)
        channels = x["pred_s"].shape[1] if own_width else theirs.shape[1]
        return Found({"loss": total * (tau**2 / (len(theirs) * channels))}, x)

    return run


def cosines(x: Inputs, hyper: Hyper) -> Found:
    """Similarity 0 where a position has length 0; there it has no derivative."""

    def similarity(v: Tensor) -> Tensor:
        lengths = v.flatten(2).norm(dim=1)
        product = lengths.unsqueeze(2) * lengths.unsqueeze(1)
        dots = v.flatten(2).mT @ v.flatten(2)
        return torch.where(product > 0, dots / product.where(product > 0, 1.0), 0.0)

    loss = (similarity(x["feat_s"]) - similarity(x["feat_t"].detach())).square().mean()
    gone = (x["feat_s"] == 0).all(1, keepdim=True).expand_as(x["feat_s"])
    return Found({"loss": loss}, x, undefined={"feat_s": gone})


def no_positions(x: Inputs, hyper: Hyper) -> Found:
    """A mean over no positions, of which each would count 0."""
    assert (x["labels"] == hyper["ignore_label"]).all()
    return Found({name: x["feat_s"].sum() * 0.0 for name in ("pixel", "region")}, x)


SAFE: dict[tuple[str, str], Map] = {
    ("pixel_kd", "cirkd"): kd("pixels"),
    ("pixel_kd", "torchdistiller-spatial-kl"): kd("pixels"),
    ("pixel_kd", "skd-authors"): kd("positions"),
    ("pixel_kd", "ifvd-authors"): kd("elements"),
    ("pixel_kd", "skd-cvpr19"): kd("elements"),
    ("pixel_kd", "mmrazor"): kd("images"),
    ("pixel_kd", "repdistiller"): kd("images"),
    ("cwd", "torchdistiller"): cwd(own_width=False),
    ("cwd", "mmrazor"): cwd(own_width=False),
    ("cwd", "cirkd"): cwd(own_width=True),
    ("cwd", "mmseg-distiller"): cwd(own_width=True, bias=True, entropy=True),
    ("skd_pairwise", "skd-cvpr19-cos"): cosines,
    ("cirkd_memory", "cirkd"): no_positions,
}

# Where the authors divide 0 by 0 and no other form of theirs says what is meant, ours need only be finite.
FREE = {
    "stlnet_qco_1d": "levels of a constant map: theirs have no width, ours lie around its value",
    "stlnet_tem": "as stlnet_qco_1d",
    "stlnet_stl": "as stlnet_qco_1d",
}
