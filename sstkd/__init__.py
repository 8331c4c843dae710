"""SSTKD's parts as plain torch modules and functions: tensors in, tensors out.

Structural texture: `CDM` with `structural_loss`; `contourlet`, `laplacian_pyramid`, `directional_filter_bank` and their
inverses on their own. Statistical texture: `DTIEM` on regions from `sample_regions` or `whole_map`, with
`statistical_loss` and `congruence_loss`; `TextureHead` trains the `GraphEnhancement` of its variant "graph", and a
`TextureEmbedding` for use before either module; `STL` and its parts are STLNet's modules. Response: `response_loss`.
Adversarial: `HolisticCritic` with `generator_loss`, `critic_loss` and `gradient_penalty`. All terms together:
`SSTKDLoss`.
"""

from sstkd.cdm import CDM
from sstkd.contourlet import Contourlet, contourlet, inverse_contourlet
from sstkd.critic import HolisticCritic, critic_loss, generator_loss, gradient_penalty
from sstkd.directional import directional_filter_bank, inverse_directional_filter_bank
from sstkd.dtiem import DTIEM, Equalized, sample_regions, texture_importance, uncertainty_importance, whole_map
from sstkd.embedding import TextureEmbedding
from sstkd.filters import FanFilters, PyramidFilters
from sstkd.graph import GraphEnhancement
from sstkd.laplacian import inverse_laplacian_pyramid, laplacian_pyramid
from sstkd.loss import SSTKDLoss
from sstkd.losses import congruence_loss, response_loss, statistical_loss, structural_loss
from sstkd.stlnet import PTFEM, STL, TEM, QCO1d, QCO2d
from sstkd.texture_head import TextureHead

__all__ = [
    "CDM",
    "DTIEM",
    "PTFEM",
    "STL",
    "TEM",
    "Contourlet",
    "Equalized",
    "FanFilters",
    "GraphEnhancement",
    "HolisticCritic",
    "PyramidFilters",
    "QCO1d",
    "QCO2d",
    "SSTKDLoss",
    "TextureEmbedding",
    "TextureHead",
    "congruence_loss",
    "contourlet",
    "critic_loss",
    "directional_filter_bank",
    "generator_loss",
    "gradient_penalty",
    "inverse_contourlet",
    "inverse_directional_filter_bank",
    "inverse_laplacian_pyramid",
    "laplacian_pyramid",
    "response_loss",
    "sample_regions",
    "statistical_loss",
    "structural_loss",
    "texture_importance",
    "uncertainty_importance",
    "whole_map",
]
