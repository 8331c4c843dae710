"""SSTKD's parts as plain torch modules and functions: tensors in, tensors out.

Structural texture: `CDM` with `structural_loss`. Statistical texture: `DTIEM` on regions from `sample_regions` or
`whole_map`, with `statistical_loss`. Response: `response_loss`.
"""

from sstkd.cdm import CDM
from sstkd.dtiem import DTIEM, sample_regions, texture_importance, uncertainty_importance, whole_map
from sstkd.losses import response_loss, statistical_loss, structural_loss

__all__ = [
    "CDM",
    "DTIEM",
    "response_loss",
    "sample_regions",
    "statistical_loss",
    "structural_loss",
    "texture_importance",
    "uncertainty_importance",
    "whole_map",
]
