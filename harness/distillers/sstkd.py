"""Structural and statistical texture knowledge distillation (SSTKD), implemented from the paper.

    L = w_re L_re + w_str L_str + w_sta L_sta + w_adv L_adv
    L_re  = T^2 mean over pixels of KL(teacher || student) on low-resolution logits
    L_str = mean over all subband coefficients of (CDM(f_T) - CDM(f_S))^2, or by `reduction` the mean over positions
            of the sum over channels and subbands
    L_sta = mean over regions and positions of (DTIEM(f_T) - DTIEM(f_S))^2
    L_adv = -mean D(z_S), with a critic D that is trained together with the student

f_T: the teacher's `stages`, each resized (bilinear) to `stride` and concatenated; the distillation trains no layer that
follows. f_S: the same of the student, projected to the teacher's width by a trained 1x1 convolution and batch
normalisation. z_S: the student's low-resolution logits on the teacher's grid. With `embedding_weights` both features
first go through an embedding that was trained with the teacher (`sstkd.embedding`).

Ji, Wang, Tao, Huang, Hua, Lu, "Structural and Statistical Texture Knowledge Distillation for Semantic Segmentation",
CVPR 2022, arXiv 2305.03944. The authors published no code, so deviations from it are unknown; the loss is in
`sstkd.loss`. The reductions behind the paper's weights (5, 0.9, 1.15, 0.01; recalled) are unknown. The default weights
are not these: they were chosen on texmosaic (docs/sensitivity.md), a starting point for a search.
"""

from collections.abc import Mapping
from inspect import signature
from pathlib import Path
from typing import Any, ClassVar, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from harness.distillers._ops import at_least_float32
from harness.distillers.base import Distiller, OwnOptimizer
from harness.models.weights import load_state
from harness.taps import Pair, Taps, View
from sstkd.cdm import CDM
from sstkd.dtiem import DTIEM
from sstkd.embedding import HOW_TO_TRAIN_AN_EMBEDDING, Part, TextureEmbedding
from sstkd.graph import GraphEnhancement
from sstkd.loss import SSTKDLoss


class SSTKD(Distiller):
    """Response, structural, statistical and adversarial terms.

    Terms of weight 0 are not computed. The adversarial term adds "critic", the critic's own loss, which trains only the
    critic. How certain each default is: V verified in the source itself, V2 verified in a secondary source, R recalled
    and unconfirmed, I inferred, D this project's decision.

    Args:
        pair: channels of both networks' taps.
        w_re: weight of the response term (D; the paper's 5.0, R).
        w_str: weight of the structural term (D; the paper's 0.9, R).
        w_sta: weight of the statistical term (D; the paper's, R).
        w_adv: weight of the student's adversarial term (D; the paper's 0.01, R).
        temperature: temperature of the response term (R).
        stages: taps of the low-level feature (I; the choice of taps D).
        stride: stride of the grid of both texture terms, in input pixels (I).
        levels: depth k of the 2**k directions per pyramid level, coarse to fine (two pyramid levels V2, the depths R).
        pyramid: low-pass pair of the Laplacian pyramid (D).
        directional: filters of the directional bank (D).
        boundary: padding of the maps, as in `sstkd.contourlet` (D).
        band_weights: subbands unscaled, or each scaled to unit variance under white noise (D).
        quantization_levels: number of intensity levels (D).
        quantization_iterations: re-estimation steps of the levels (their use V2, the number D).
        quantization_relaxation: length of such a step, in (0, 1) (D).
        quantization_min_range: least width of the level grid, in units of the cosine (D).
        clip_limit: upper limit of a level's share as a multiple of the uniform share, at least 1; None does not clip
            (the use of a limit V2, the rule and the value D).
        variant: compares equalised intensities, or the vectors of a graph that the teacher was trained with (both D,
            the graph itself V).
        graph_weights: safetensors or `weights_only` file with the graph of variant "graph".
        graph_sha256: SHA-256 of that file.
        congruence: weight of the difference of cumulative distributions within the statistical term (V2, the value D).
        reduction: of both texture terms: the mean over everything that is compared, or the sum over channels and
            subbands averaged over positions ("coefficients" D, "positions" R).
        regions: regions per image; 0: the whole map is one region (D).
        region_importance: criterion for preferred regions: the teacher's local texture, or a small margin between its
            two highest class probabilities (D).
        region_sizes: sides of regions as shares of the map's sides (D).
        region_aspects: height over width of regions, relative to the map's (D).
        region_points: positions sampled along each side of a region (D).
        region_oversample: random candidates per region (the scheme R, the value D).
        region_important: share of the regions that is chosen by importance (the scheme R, the value D).
        adversarial: kind of the critic's loss, both with a gradient penalty (V in SKD's code, which SSTKD takes over).
        critic_width: channels of the critic's first convolution; the others are proportional (V).
        critic_lr: initial learning rate of the critic's Adam; follows the recipe's schedule (V).
        critic_betas: betas of that Adam (R).
        gradient_penalty: weight of the critic's gradient penalty (V).
        critic_input: what the critic's first convolution sees: the scores after batch normalisation, or their tanh (V).
        embedding_weights: safetensors or `weights_only` file with the embeddings of a `sstkd.TextureHead` that the
            teacher was trained with, for both features before CDM, DTIEM or both; none: these modules have no
            parameters (that there is one I, its layers D).
        embedding_sha256: SHA-256 of that file.

    Raises:
        ValueError: a value is out of range, either network lacks a stage, graph weights are missing or were trained
            with another quantisation, or embeddings are missing, not trained, or of another width.
    """

    paper: ClassVar[str] = (
        "Ji et al., Structural and Statistical Texture Knowledge Distillation for Semantic Segmentation, "
        "CVPR 2022, arXiv 2305.03944"
    )
    caveat: ClassVar[str] = (
        "weights chosen by this project on texmosaic, so not untuned there; the paper's (recalled, unverified): "
        "w_re 5, w_str 0.9, w_sta 1.15, w_adv 0.01"
    )
    # The statistical term's default is the paper's.
    chosen: ClassVar[Mapping[str, str]] = {"w_re": "texmosaic", "w_str": "texmosaic", "w_adv": "texmosaic"}
    space: ClassVar[Mapping[str, tuple[float, float]]] = {
        "w_re": (0.1, 10.0),
        "w_str": (0.009, 0.9),
        "w_sta": (0.115, 11.5),
        "w_adv": (0.001, 0.1),
        "critic_lr": (0.0001, 0.0016),
    }
    optional: ClassVar[tuple[str, ...]] = ("w_adv",)
    needs: ClassVar[Mapping[str, str]] = {"critic_lr": "w_adv"}

    weights: ClassVar[tuple[str, ...]] = ("w_re", "w_str", "w_sta", "w_adv")
    response: ClassVar[Mapping[str, str]] = {"weight": "w_re", "temperature": "temperature"}

    added: ClassVar[tuple[str, ...]] = (
        "reduction",
        "critic_input",
        "embedding_weights",
        "embedding_sha256",
    )

    limits: ClassVar[Mapping[str, tuple[float, float]]] = {
        "stride": (1, 1024),
        "quantization_levels": (2, 1024),
        "quantization_iterations": (0, 1000),
        "regions": (0, 4096),
        "region_points": (1, 4096),
        "region_oversample": (1, 64),
        "critic_width": (1, 1024),
    }

    def __init__(
        self,
        pair: Pair,
        *,
        w_re: float = 1.0,
        w_str: float = 0.09,
        w_sta: float = 1.15,
        w_adv: float = 0.0,
        temperature: float = 1.0,
        stages: tuple[str, ...] = ("stage1", "stage2"),
        stride: int = 8,
        levels: tuple[int, ...] = (3, 4),
        pyramid: Literal["9-7", "5-3", "Burt", "pkva"] = "9-7",
        directional: Literal["pkva", "pkva6", "pkva8", "9-7", "5-3"] = "pkva",
        boundary: Literal["periodic", "toolbox"] = "periodic",
        band_weights: Literal["equal", "whitened"] = "equal",
        quantization_levels: int = 32,
        quantization_iterations: int = 2,
        quantization_relaxation: float = 0.5,
        quantization_min_range: float = 0.01,
        clip_limit: float | None = 4.0,
        variant: Literal["equalize", "graph"] = "equalize",
        graph_weights: str | None = None,
        graph_sha256: str | None = None,
        congruence: float = 0.0,
        reduction: Literal["coefficients", "positions"] = "coefficients",
        regions: int = 16,
        region_importance: Literal["texture", "uncertainty"] = "texture",
        region_sizes: tuple[float, ...] = (0.25, 0.5),
        region_aspects: tuple[float, ...] = (0.5, 1.0, 2.0),
        region_points: int = 8,
        region_oversample: int = 3,
        region_important: float = 0.75,
        adversarial: Literal["wgan-gp", "hinge"] = "wgan-gp",
        critic_width: int = 64,
        critic_lr: float = 0.0004,
        critic_betas: tuple[float, ...] = (0.9, 0.99),
        gradient_penalty: float = 10.0,
        critic_input: Literal["batchnorm", "tanh"] = "batchnorm",
        embedding_weights: str | None = None,
        embedding_sha256: str | None = None,
    ) -> None:
        super().__init__()
        if stride < 1:
            raise ValueError(f"stride is {stride}; at least 1 is needed")
        if not 0 < critic_lr < float("inf") or len(critic_betas) != 2 or not all(0 <= b < 1 for b in critic_betas):
            raise ValueError(
                f"critic_lr is {critic_lr}, critic_betas {critic_betas}; a positive number and two in [0, 1) are needed"
            )
        self.stages, self.stride = tuple(stages), stride
        self.critic_lr, self.critic_betas = critic_lr, (critic_betas[0], critic_betas[1])
        if w_str or w_sta:
            self.adapter = _adapter(pair, self.stages)
        dtiem = None
        if w_sta:
            dtiem = DTIEM(
                quantization_levels,
                quantization_iterations,
                quantization_relaxation,
                clip_limit,
                quantization_min_range,
                variant=variant,
                graph=_graph(graph_weights, graph_sha256),
            )
        used: dict[Part, float] = {"structural": w_str, "statistical": w_sta}
        parts = [part for part, weight in used.items() if weight]
        embeddings = _embeddings(pair, self.stages, parts, embedding_weights, embedding_sha256)
        self.loss = SSTKDLoss(
            w_re=w_re,
            w_str=w_str,
            w_sta=w_sta,
            w_adv=w_adv,
            temperature=temperature,
            cdm=CDM(levels, pyramid, directional, boundary, band_weights) if w_str else None,
            dtiem=dtiem,
            regions=regions,
            region_importance=region_importance,
            region_options={
                "sizes": region_sizes,
                "aspects": region_aspects,
                "points": region_points,
                "oversample": region_oversample,
                "important": region_important,
            },
            congruence=congruence,
            reduction=reduction,
            classes=pair.num_classes,
            adversarial=adversarial,
            critic_width=critic_width,
            gradient_penalty=gradient_penalty,
            critic_input=critic_input,
            structural_embedding=embeddings.get("structural"),
            statistical_embedding=embeddings.get("statistical"),
            # This check would sync with the device at every step; `_name_taps` checks only after a term is not finite.
            check_finite=False,
        )

    @classmethod
    def skip(cls, pair: Pair, **parameters: Any) -> str | None:
        """Reason if a texture term is on and either network lacks a stage, else None."""
        values = {name: p.default for name, p in signature(cls).parameters.items()} | parameters
        if not values["w_str"] and not values["w_sta"]:
            return None
        return _missing_stages(pair, values["stages"])

    def own_optimizers(self) -> tuple[OwnOptimizer, ...]:
        """Adam for the critic, when there is one."""
        if not self.loss.w_adv:
            return ()
        return (OwnOptimizer(tuple(self.loss.critic.parameters()), self.critic_lr, self.critic_betas),)

    def forward(self, view: View) -> dict[str, Tensor]:
        """The terms with non-zero weight: "response", "structural", "statistical", "adversarial", "critic".

        Raises:
            FloatingPointError: on a CPU, if a term is not finite because of a tap; names the taps.
        """
        student, teacher = view.student, view.taught()
        ours = theirs = None
        if self.loss.w_str or self.loss.w_sta:
            height, width = view.labels.shape[-2:]
            hw = (-(-height // self.stride), -(-width // self.stride))
            theirs = self._low_level(teacher, hw)
            # A rounded feature may fall on another quantisation level, so that gradients of L_sta would be others.
            with torch.autocast(theirs.device.type, enabled=False):
                ours = self.adapter(self._low_level(student, hw))
        # Networks of different output stride are compared on the teacher's grid.
        scores = _resized(student.logits, (teacher.logits.shape[-2], teacher.logits.shape[-1]))
        terms: dict[str, Tensor] = self.loss(ours, theirs, scores, teacher.logits, view.generator)
        # On CUDA, reading a term would sync at every step. The training loop's own check names only the term, after the
        # taps are freed; repeating the run on a CPU names the tap.
        if scores.device.type == "cpu" and not all(term.isfinite() for term in terms.values()):
            self._name_taps(view)
        return terms

    def _name_taps(self, view: View) -> None:
        """Raise if a tap is not finite. (A term can also overflow although all taps are finite.)"""
        stages = self.stages if self.loss.w_str or self.loss.w_sta else ()
        found = []
        for role, taps in (("student", view.student), ("teacher", view.taught())):
            read = {name: taps.stages[name] for name in stages} | {"logits": taps.logits}
            for name, x in read.items():
                bad = int(x.numel() - x.detach().isfinite().sum())
                if bad:
                    found.append(f"the {role}'s {name} ({bad} of {x.numel()} values)")
        if found:
            raise FloatingPointError(
                f"not finite, {view.progress:.2%} into the training: {', '.join(found)}. If the student diverged, "
                "lower train.optimizer.lr, set train.clip_norm, or use precision bf16/fp32."
            )

    def _low_level(self, taps: Taps, hw: tuple[int, int]) -> Tensor:
        return torch.cat([_resized(at_least_float32(taps.stages[name]), hw) for name in self.stages], 1)


def _graph(path: str | None, sha256: str | None) -> GraphEnhancement | None:
    if path is None:
        return None
    if sha256 is None:
        raise ValueError(f"graph_weights is {path}: give graph_sha256 too, so that the row identifies the weights")
    return GraphEnhancement.from_state(load_state(Path(path), sha256))


def _embeddings(
    pair: Pair, stages: tuple[str, ...], parts: list[Part], path: str | None, sha256: str | None
) -> dict[Part, TextureEmbedding]:
    """Those of `parts` that a file of weights has; at least one."""
    if path is None:
        if sha256 is not None:
            raise ValueError(f"embedding_sha256 is {sha256}: give embedding_weights too, the file that it belongs to")
        return {}
    if sha256 is None:
        raise ValueError(
            f"embedding_weights is {path}: give embedding_sha256 too, so that the row identifies the weights"
        )
    state = load_state(Path(path), sha256)
    read = {part: TextureEmbedding.from_state(state, part) for part in parts}
    found = {part: embedding for part, embedding in read.items() if embedding is not None}
    if not found:
        asked = " or ".join(parts) or "texture term"
        raise ValueError(f"{path}: no embedding for the {asked}. {HOW_TO_TRAIN_AN_EMBEDDING}.")
    width = sum(pair.teacher.stages[name].channels for name in stages)
    for part, embedding in found.items():
        if embedding.channels != width:
            raise ValueError(
                f"{path}: the {part} embedding takes {embedding.channels} channels; the teacher's {', '.join(stages)} "
                f"have {width}"
            )
    return found


def _missing_stages(pair: Pair, stages: tuple[str, ...]) -> str | None:
    if not stages:
        return "stages is empty; the texture terms need at least one"
    for role, network in (("student", pair.student), ("teacher", pair.teacher)):
        missing = [name for name in stages if name not in network.stages]
        if missing:
            return f"the {role} has no tap {', '.join(missing)}; it has {', '.join(network.stages)}"
    return None


def _adapter(pair: Pair, stages: tuple[str, ...]) -> nn.Module:
    reason = _missing_stages(pair, stages)
    if reason:
        raise ValueError(reason)
    width_in = sum(pair.student.stages[name].channels for name in stages)
    width_out = sum(pair.teacher.stages[name].channels for name in stages)
    return nn.Sequential(nn.Conv2d(width_in, width_out, 1, bias=False), nn.BatchNorm2d(width_out))


def _resized(x: Tensor, hw: tuple[int, int]) -> Tensor:
    return x if tuple(x.shape[-2:]) == hw else F.interpolate(x, hw, mode="bilinear", align_corners=False)
