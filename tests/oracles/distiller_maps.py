"""From the authors' (method, convention) to a call of ours: losses on logits and on features.

Where a published weight belongs to a convention, that is the distiller's own `convention=`; the others are related to
one of ours by a formula that stands here. Every parameter of a distiller is one of the case's inputs.
"""

from collections.abc import Callable
from typing import Any
from unittest.mock import patch

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.func import functional_call

from harness.distillers import METHODS, Distiller
from harness.distillers._ops import attention, squared_error
from harness.distillers._queue import ClassQueue
from harness.distillers.dist import correlation
from harness.distillers.freekd import haar
from harness.taps import NetworkInfo, Pair, TapInfo, Taps, View
from tests.oracles.oracle_folder import Found, Hyper, Inputs

Map = Callable[[Inputs, Hyper], Found]
Maps = dict[str, Tensor]  # by tap


def build(
    method: str,
    ours: Maps,
    theirs: Maps,
    labels: Tensor | None = None,
    classes: int = 0,
    ignored: Any = None,
    **own: Any,
) -> tuple[Distiller, View]:
    """A distiller and what it is shown. A tap that is not given is another one, so that whoever reads it is wrong."""

    def network(maps: Maps) -> tuple[NetworkInfo, Taps]:
        any_map = next(iter(maps.values()))
        stages = {name: x for name, x in maps.items() if name not in ("decoder", "logits")} or {"stage1": any_map}
        ends = [maps.get(name, any_map) for name in ("decoder", "logits")]
        known = {name: TapInfo(x.shape[1], 4) for name, x in stages.items()}
        info = NetworkInfo(known, TapInfo(ends[0].shape[1], 4), TapInfo(ends[1].shape[1], 4))
        return info, Taps(stages, ends[0], ends[1], ends[1])

    (student, seen), (teacher, taught) = network(ours), network({name: x.detach() for name, x in theirs.items()})
    pair = Pair(student, teacher, classes or student.logits.channels, 255 if ignored is None else ignored)
    x = next(iter(ours.values()))
    if labels is None:
        labels = torch.zeros(len(x), 1, 1, dtype=torch.long)
    view = View(seen, taught, labels, 0.0, torch.Generator().manual_seed(0))
    return METHODS[method](pair, **own).to(x.dtype), view


def terms(distiller: Distiller, view: View, given: Maps | None = None) -> dict[str, Tensor]:
    """The distiller's terms, its parameters being `given`."""
    given = given or {}
    missing = {name for name, _ in distiller.named_parameters()} - given.keys()
    assert not missing, f"{', '.join(sorted(missing))} would stay random"
    found: dict[str, Tensor] = functional_call(distiller, given, (view,), strict=False)
    return found


def adapter(x: Inputs, weight: str = "conv_w", bias: str | None = None) -> Maps:
    """Parameters of the 1x1 convolution, when the case has one."""
    if weight not in x:
        return {}
    return {"adapter.weight": x[weight], **({"adapter.bias": x[bias]} if bias else {})}


# The same term within another method, where its published weight stands.
PIXEL_TERMS = {
    "canonical": ("cirkd", "kd", {"batch": 0.0, "pixel": 0.0, "region": 0.0, "kd": 1.0}),
    "skd": ("skd", "pixel", {"pixel": 1.0, "pairwise": 0.0, "holistic": 0.0, "convention": "skd"}),
    "ifvd": ("ifvd", "kd", {"weight": 1.0, "kd": 1.0, "adversarial": 0.0, "convention": "ifvd"}),
}


def kd(convention: str) -> Map:
    def run(x: Inputs, hyper: Hyper) -> Found:
        shown = {"logits": x["logits_s"]}, {"logits": x["logits_t"]}
        loss = terms(*build("kd", *shown, temperature=hyper["T"], convention=convention))["kd"]
        if hyper["T"] == 1 and convention in PIXEL_TERMS:
            method, term, weights = PIXEL_TERMS[convention]
            assert torch.equal(terms(*build(method, *shown, **weights))[term], loss), method
        return Found({"loss": loss}, x)

    return run


def upsampled_kd(x: Inputs, hyper: Hyper) -> Found:
    """IFVD's number of logits that were enlarged first."""
    big = {
        name: F.interpolate(v, scale_factor=hyper["upsample"], mode="bilinear", align_corners=True)
        for name, v in x.items()
    }
    return Found(kd("ifvd")(big, hyper).losses, x)


def cwd(convention: str) -> Map:
    def run(x: Inputs, hyper: Hyper) -> Found:
        shown = [{"decoder": x[name], "logits": x[name]} for name in ("pred_s", "pred_t")]
        alike = x["pred_s"].shape == x["pred_t"].shape
        weights = {"logits": float(alike), "feature": 1.0, "tau": hyper["tau"], "convention": convention}
        distiller, view = build("cwd", *shown, **weights)
        given = {} if alike else adapter(x, bias="conv_b" if convention == "mmseg" else None)
        found = terms(distiller, view, given)
        assert not alike or torch.equal(found["cwd"], found["cwd_feature"])
        return Found({"loss": found["cwd_feature"]}, x)

    return run


def features(x: Inputs) -> list[Maps]:
    """The feature in front of the classifier, of both networks."""
    return [{"decoder": x["feat_s"]}, {"decoder": x["feat_t"]}]


def fitnet(x: Inputs, hyper: Hyper) -> Found:
    assert not hyper["bias"]
    return Found({"loss": terms(*build("fitnet", *features(x), weight=1.0, kd=0.0), adapter(x))["fitnet"]}, x)


def feature_kd(x: Inputs, hyper: Hyper) -> Found:
    return Found({"loss": terms(*build("feature-kd", *features(x), weight=1.0))["feature"]}, x)


def at(x: Inputs, hyper: Hyper) -> Found:
    assert hyper["p"] == 2
    return Found({"loss": terms(*build("at", *features(x), weight=1.0, kd=0.0))["at"]}, x)


def at_of_the_paper(x: Inputs, hyper: Hyper) -> Found:
    """mean_n |a_S - a_T|; ours is mean_n |a_S - a_T|^2 / (h w)."""
    difference = attention(x["feat_s"], x["feat_t"]) - attention(x["feat_t"], x["feat_t"])
    return Found({"loss": torch.linalg.vector_norm(difference, dim=1).mean()}, x)


def pairwise(convention: str) -> Map:
    def run(x: Inputs, hyper: Hyper) -> Found:
        assert convention != "cirkd" or hyper["patch"] == [2, 2]
        parameters = {"pixel": 0.0, "pairwise": 1.0, "holistic": 0.0, "convention": convention}
        distiller, view = build("skd", *features(x), scale=hyper.get("pool_scale", 0.5), **parameters)
        return Found({"loss": terms(distiller, view)["pairwise"]}, x)

    return run


def pairwise_of_all_positions(x: Inputs, hyper: Hyper) -> Found:
    """CIRKD's number of maps whose every position is repeated into a 2x2 window."""
    big = {name: v.repeat_interleave(2, -1).repeat_interleave(2, -2) for name, v in x.items()}
    return Found(pairwise("cirkd")(big, {"patch": [2, 2]}).losses, x)


def ifvd(x: Inputs, hyper: Hyper) -> Found:
    place = {"labels": x["labels"], "classes": hyper["classes"], "ignored": hyper["ignore_label"]}
    distiller, view = build("ifvd", *features(x), **place, weight=1.0, kd=0.0, adversarial=0.0)
    return Found({"loss": terms(distiller, view)["ifv"]}, x)


def dsd(x: Inputs, hyper: Hyper) -> Found:
    shown = [{"stage1": x[f"aux_{who}"], "decoder": x[f"feat_{who}"], "logits": x[f"logits_{who}"]} for who in "st"]
    weights = {"pixel": 1.0, "category": 1.0, "kd": 0.0, "tau": hyper["tau"], "taps": ("last", "decoder", "logits")}
    return Found(terms(*build("dsd", *shown, **weights)), x)


def minibatch(x: Inputs, hyper: Hyper) -> Found:
    weights = {"batch": 1.0, "pixel": 0.0, "region": 0.0, "kd": 0.0, "tau": hyper["temperature"]}
    return Found({"loss": terms(*build("cirkd", *features(x), **weights))["batch"]}, x)


def memory(x: Inputs, hyper: Hyper) -> Found:
    """CIRKD's queues before and after; the case's draws take the place of the distiller's."""
    draws = iter(x["enqueue_perms"].split(x["enqueue_perm_lengths"].tolist()))

    def choose(labels: Tensor, classes: int, most: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        positions = torch.zeros(len(labels), classes, most, dtype=torch.long)
        counts = torch.zeros(len(labels), classes, dtype=torch.long)
        for i, row in enumerate(labels):
            for k in row[row >= 0].unique().tolist():
                chosen = next(draws)[:most]
                positions[i, k, : len(chosen)], counts[i, k] = chosen, len(chosen)
        return positions, counts

    def sample(queue: ClassQueue, count: int, generator: torch.Generator) -> Tensor:
        name = "pixel_index" if queue is distiller.pixels else "region_index"
        return queue.take(x.get(name, torch.zeros(0, dtype=torch.long)))

    place = {"labels": x["labels"], "classes": hyper["num_classes"], "ignored": hyper["ignore_label"]}
    weights = {"batch": 0.0, "pixel": 1.0, "region": 1.0, "kd": 0.0, "convention": "cirkd"}
    names = ("pixel_memory", "region_memory", "pixel_contrast", "region_contrast")
    settings = {name: hyper[name] for name in names} | {"enqueued": hyper["pixel_update_freq"]}
    settings |= {"tau": hyper["contrast_temperature"], "temperature": hyper["contrast_kd_temperature"]}
    distiller, view = build("cirkd", *features(x), **place, **weights, **settings)
    queues = {"pixel": distiller.pixels, "region": distiller.regions}
    for name, queue in queues.items():
        queue.entries.copy_(x[f"{name}_queue"].detach())
        queue.pointer.copy_(x[f"{name}_ptr"])
    ours = {"0.weight": "conv1_w", "1.weight": "bn_weight", "1.bias": "bn_bias", "3.weight": "conv2_w"}
    given = {f"projection.{name}": x[theirs] for name, theirs in ours.items()}
    with patch("harness.distillers.cirkd.choose_first", choose), patch.object(ClassQueue, "sample", sample):
        losses = terms(distiller, view, given)
    assert next(draws, None) is None, "not all draws were asked for"
    after = {f"{name}_queue_after": queue.entries for name, queue in queues.items()}
    return Found(losses, x, after | {f"{name}_ptr_after": queue.pointer for name, queue in queues.items()})


def dist(x: Inputs, hyper: Hyper) -> Found:
    tau, inter, intra = hyper.get("tau", 1.0), hyper.get("beta", 1.0), hyper.get("gamma", 1.0)
    shown = [{"logits": x["logits_s"]}, {"logits": x["logits_t"]}]
    found = terms(*build("dist", *shown, inter=inter, intra=intra, tau=tau))
    return Found({"loss": found["inter"] + found["intra"]}, x, order=tau**2 * (inter + intra))


def dist_of_images(x: Inputs, hyper: Hyper) -> Found:
    """Correlations over the images take the place of those over positions: not DIST's number."""
    ours, theirs = ((x[name] / hyper["tau"]).softmax(1) for name in ("logits_s", "logits_t"))
    loss = sum(1 - correlation(ours, theirs, (dim,)).mean() for dim in (0, 1)) * hyper["tau"] ** 2
    assert isinstance(loss, Tensor) and (loss - dist(x, hyper).losses["loss"]).abs() > 1e-3
    return Found({"loss": loss}, x, order=1.0)


def kt(x: Inputs, hyper: Hyper) -> Found:
    """The authors divide by the student's width, we by the teacher's."""
    settings = {"divergence": hyper["divergence"], "tau": hyper["temperature"], "delta": hyper["delta"]}
    distiller, view = build("kt", *features(x), logits=0.0, feature=1.0, kd=0.0, **settings)
    loss = terms(distiller, view, adapter(x))["kt_feature"]
    return Found({"loss": loss}, x)


def masked(x: Inputs, method: str, given: Maps, dropped: float, **own: Any) -> dict[str, Tensor]:
    """Terms of a distiller that draws a mask: out of the case's uniform numbers, and then it is the case's mask."""
    shown = [{"stage1": x["feat_s"], "decoder": x["feat_s"]}, {"stage1": x["feat_t"], "decoder": x["feat_t"]}]
    distiller, view = build(method, *shown, dropped=dropped, **own)
    uniform = x["mask_uniform"].detach()
    assert torch.equal((uniform <= 1 - dropped).long(), x["mask"])
    with patch.object(torch, "rand", lambda *shape, generator: uniform.view(shape)):
        return terms(distiller, view, given)


def mgd(x: Inputs, hyper: Hyper) -> Found:
    names = {"0.weight": "gen0_w", "0.bias": "gen0_b", "2.weight": "gen2_w", "2.bias": "gen2_b"}
    given = adapter(x, "align_w", "align_b") | {f"generator.{ours}": x[theirs] for ours, theirs in names.items()}
    parameters = {"weight": hyper["alpha_mgd"], "cwd": 0.0, "convention": "mgd"}
    return Found({"loss": masked(x, "mgd", given, hyper["lambda_mgd"], **parameters)["mgd"]}, x)


def mgd_without_generator(x: Inputs, hyper: Hyper) -> Found:
    """weight C h w times the mean squared error of the features as they come out of the 1x1 convolution."""
    aligned = F.conv2d(x["feat_s"], x["align_w"], x["align_b"]) if "align_w" in x else x["feat_s"]
    return Found({"loss": hyper["alpha_mgd"] * squared_error(aligned, x["feat_t"], "mgd")}, x)


def af_dcd(x: Inputs, hyper: Hyper) -> Found:
    assert hyper["rand_mask"] and not hyper["enhance_projector"]
    parts = [(i, kind) for i in (0, 2) for kind in ("weight", "bias")]
    given = {f"generator.{i}.{kind}": x[f"projetor_{i}_{kind}"] for i, kind in parts}
    given |= adapter(x, "align_weight", "align_bias")
    settings = {"groups": hyper["M"], "pool": hyper["pool"], "patch": tuple(hyper["patch"]), "tau": hyper["tau"]}
    weights = {"feature": 1.0, "contrast": 1.0, "kd": 0.0, "convention": "af-dcd"}
    return Found(masked(x, "af-dcd", given, hyper["mask_ratio"], **settings, **weights), x)


def freekd(x: Inputs, hyper: Hyper) -> Found:
    assert hyper["levels"] == 3 and hyper["wave"] == "haar"
    distiller, view = build("freekd", *features(x), weight=hyper["loss_weight"], tokens=hyper["num_tokens"])
    loss = terms(distiller, view, {"tokens": x["mask_token"]})["freekd"]
    low, bands = haar(x["feat_s"])
    return Found(
        {"loss": loss}, x, {"dwt_low_s": low} | {f"dwt_high_s_level{i}": band for i, band in enumerate(bands, 1)}
    )


MAPS: dict[tuple[str, str], Map] = {
    ("pixel_kd", "cirkd"): kd("canonical"),
    ("pixel_kd", "torchdistiller-spatial-kl"): kd("canonical"),
    ("pixel_kd", "skd-authors"): kd("skd"),
    ("pixel_kd", "ifvd-authors"): kd("ifvd"),
    ("pixel_kd", "mmrazor"): kd("mmrazor"),
    ("pixel_kd", "repdistiller"): kd("mmrazor"),
    ("pixel_kd", "skd-cvpr19"): upsampled_kd,
    ("fitnet", "cirkd"): fitnet,
    ("fitnet", "repdistiller"): feature_kd,
    ("at", "cirkd"): at,
    ("at", "at-authors"): at,
    ("at", "mmrazor"): at,
    ("at", "repdistiller"): at,
    ("at", "torchdistill-paper"): at_of_the_paper,
    ("skd_pairwise", "skd-authors"): pairwise("skd"),
    ("skd_pairwise", "cirkd-2x2"): pairwise("cirkd"),
    ("skd_pairwise", "skd-cvpr19-cos"): pairwise_of_all_positions,
    ("ifvd", "ifvd-authors"): ifvd,
    ("ifvd", "cirkd"): ifvd,
    ("cwd", "torchdistiller"): cwd("canonical"),
    ("cwd", "mmrazor"): cwd("canonical"),
    ("cwd", "cirkd"): cwd("cirkd"),
    ("cwd", "mmseg-distiller"): cwd("mmseg"),
    ("dsd", "cirkd"): dsd,
    ("cirkd_minibatch", "cirkd"): minibatch,
    ("cirkd_memory", "cirkd"): memory,
    ("dist", "dist-authors"): dist,
    ("dist", "mmrazor-on-pixels"): dist,
    ("dist", "mmrazor-nchw-trap"): dist_of_images,
    ("kt", "kt-authors-kl"): kt,
    ("kt", "kt-authors-mse"): kt,
    ("kt", "kt-authors-l1"): kt,
    ("kt", "kt-authors-huber"): kt,
    ("mgd", "mgd-authors"): mgd,
    ("mgd", "mmrazor"): mgd_without_generator,
    ("afdcd", "afdcd-authors"): af_dcd,
    ("freekd", "freekd-authors"): freekd,
}
