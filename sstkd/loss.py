"""The whole loss of SSTKD, term by term.

    L = w_re L_re + w_str L_str + w_sta L_sta + w_adv L_adv

Ji, Wang, Tao, Huang, Hua, Lu, "Structural and Statistical Texture Knowledge Distillation for Semantic Segmentation",
CVPR 2022, arXiv 2305.03944.
"""

from collections.abc import Mapping
from typing import Any, Literal

import torch
from torch import Tensor, nn

from sstkd.cdm import CDM
from sstkd.critic import Adversarial, HolisticCritic, adversarial_terms, check_kind
from sstkd.dtiem import DTIEM
from sstkd.losses import response_loss, statistical_loss, structural_loss
from sstkd.regions import sample_regions, texture_importance, uncertainty_importance, whole_map

Importance = Literal["texture", "uncertainty"]


class SSTKDLoss(nn.Module):
    """Response, structural, statistical and adversarial terms, each weighted, in a dict.

    A term of weight 0 is neither built nor computed nor returned. With the adversarial term comes "critic", the
    critic's own loss: it reaches the critic's parameters and nothing else, as the others reach everything but them. So
    one backward pass of the sum serves both, and the critic's parameters go to an optimizer of their own:

        loss = SSTKDLoss(classes=19)
        critic = torch.optim.Adam(loss.critic.parameters(), lr=4e-4, betas=(0.9, 0.99))
        terms = loss(student_features, teacher_features, student_logits, teacher_logits)
        sum(terms.values()).backward()

    How sure each default is: V verified, V2 verified in a secondary source, R recalled and unconfirmed, I inferred, D
    this project's decision.

    Args:
        w_re: weight of the response term (R).
        w_str: weight of the structural term (R).
        w_sta: weight of the statistical term (R).
        w_adv: weight of the student's adversarial term (R).
        temperature: of the response term (R).
        cdm: the decomposition; `CDM()` when not given. Unused without the structural term.
        dtiem: the equalisation; `DTIEM()` when not given. Unused without the statistical term.
        regions: regions per image; 0 is one region, the whole map (D).
        region_importance: what regions are preferred for: the teacher's local texture, or a small margin between its
            two highest class probabilities (D).
        region_options: further arguments of `sample_regions`.
        congruence: weight of `congruence_loss` in the statistical term (V2, the weight D).
        classes: number of classes; needed for the critic only.
        adversarial: kind of critic, "wgan-gp" or "hinge" with the same penalty (V for SKD's code).
        critic_width: channels of the critic's first convolution (V).
        gradient_penalty: weight of the penalty (V).

    Raises:
        ValueError: a weight that is negative or not finite, a value out of range, or no classes for the critic.
    """

    def __init__(
        self,
        *,
        w_re: float = 5.0,
        w_str: float = 0.9,
        w_sta: float = 1.15,
        w_adv: float = 0.01,
        temperature: float = 1.0,
        cdm: CDM | None = None,
        dtiem: DTIEM | None = None,
        regions: int = 16,
        region_importance: Importance = "texture",
        region_options: Mapping[str, Any] | None = None,
        congruence: float = 0.0,
        classes: int | None = None,
        adversarial: Adversarial = "wgan-gp",
        critic_width: int = 64,
        gradient_penalty: float = 10.0,
    ) -> None:
        super().__init__()
        weights = {"w_re": w_re, "w_str": w_str, "w_sta": w_sta, "w_adv": w_adv, "congruence": congruence}
        if not all(0 <= weight < float("inf") for weight in (*weights.values(), gradient_penalty)):
            raise ValueError(f"weights must not be negative or infinite, got {weights}, penalty {gradient_penalty}")
        if regions < 0:
            raise ValueError(f"regions is {regions}; it must be at least 0")
        if region_importance not in ("texture", "uncertainty"):
            raise ValueError(f"region_importance is {region_importance!r}; allowed: 'texture', 'uncertainty'")
        if not temperature > 0:
            raise ValueError(f"temperature is {temperature}; it must be positive")
        check_kind(adversarial)
        self.w_re, self.w_str, self.w_sta, self.w_adv = w_re, w_str, w_sta, w_adv
        self.temperature, self.congruence = temperature, congruence
        self.regions, self.region_importance = regions, region_importance
        self.region_options = dict(region_options or {})
        self.adversarial, self.gradient_penalty = adversarial, gradient_penalty
        if w_str:
            self.cdm = cdm or CDM()
        if w_sta:
            self.dtiem = dtiem or DTIEM()
        if w_adv:
            if classes is None:
                raise ValueError(f"w_adv is {w_adv}: the critic needs `classes`, or w_adv 0 to leave it out")
            self.critic = HolisticCritic(classes, critic_width)

    def forward(
        self,
        student_features: Tensor | None,
        teacher_features: Tensor | None,
        student_logits: Tensor,
        teacher_logits: Tensor,
        generator: torch.Generator | None = None,
    ) -> dict[str, Tensor]:
        """The weighted terms that are on: "response", "structural", "statistical", "adversarial", "critic".

        Args:
            student_features: low-level features (N, C, H, W), brought to the teacher's width. None without textures.
            teacher_features: the same of the teacher; nothing trained has touched it.
            student_logits: class scores (N, K, h, w).
            teacher_logits: of the same shape.
            generator: stream for regions and for the critic's interpolation; a CPU one. The global one without it.

        Raises:
            ValueError: shapes that differ, features that are missing or hold a NaN.
        """
        if generator is None:
            generator = torch.default_generator
        teacher_logits = teacher_logits.detach()
        terms: dict[str, Tensor] = {}
        if self.w_re:
            terms["response"] = self.w_re * response_loss(student_logits, teacher_logits, self.temperature)
        if self.w_str or self.w_sta:
            terms |= self._textures(student_features, teacher_features, teacher_logits, generator)
        if self.w_adv:
            terms |= self._adversarial(student_logits, teacher_logits, generator)
        return terms

    def _textures(
        self, student: Tensor | None, teacher: Tensor | None, logits: Tensor, generator: torch.Generator
    ) -> dict[str, Tensor]:
        if student is None or teacher is None:
            raise ValueError("the texture terms are on and need the features of student and teacher")
        if student.shape != teacher.shape:
            raise ValueError(f"features differ: student {tuple(student.shape)}, teacher {tuple(teacher.shape)}")
        # Under autocast features come in half precision; the difference of two such maps has few digits left.
        dtype = torch.promote_types(student.dtype, torch.float32)
        student, teacher = student.to(dtype), teacher.detach().to(dtype)
        terms = {}
        if self.w_str:
            terms["structural"] = self.w_str * structural_loss(self.cdm(student - teacher))
        if self.w_sta:
            with torch.no_grad():
                positions = self._positions(teacher, logits, generator)
                target = self.dtiem.equalize(teacher, positions, name="the teacher's low-level features")
            ours = self.dtiem.equalize(student, positions, name="the student's low-level features")
            terms["statistical"] = self.w_sta * statistical_loss(ours, target, self.congruence)
        return terms

    def _positions(self, teacher: Tensor, logits: Tensor, generator: torch.Generator) -> Tensor:
        n, _, height, width = teacher.shape
        if not self.regions:
            return whole_map(n, height, width, teacher.device)
        if self.region_importance == "uncertainty":
            scores = logits
            if tuple(logits.shape[-2:]) != (height, width):
                scores = nn.functional.interpolate(logits, (height, width), mode="bilinear", align_corners=False)
            importance = uncertainty_importance(scores)
        else:
            importance = texture_importance(teacher)
        return sample_regions(importance, self.regions, generator, **self.region_options)

    def _adversarial(self, student: Tensor, teacher: Tensor, generator: torch.Generator) -> dict[str, Tensor]:
        ours, critic = adversarial_terms(
            self.critic, student, teacher, generator, self.adversarial, self.gradient_penalty
        )
        return {"adversarial": self.w_adv * ours, "critic": critic}
