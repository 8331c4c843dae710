"""The Laplacian pyramid against numbers of the original contourlet toolbox (run under GNU Octave, float64).

pyramid.npz: image x (64, 64); per filter pair the taps h and g, the low-pass c, the band d, and what the toolbox
reconstructs from c + 0.1 and d (which tells the framing-pyramid synthesis from the plain sum).
"""

from pathlib import Path

import numpy as np
import pytest
import torch

from sstkd.filters import pyramid_filters
from sstkd.laplacian import merge, split

NAMES = {"9-7": "9_7", "5-3": "5_3", "Burt": "Burt"}
ORACLE = {name: torch.from_numpy(value) for name, value in np.load(Path(__file__).with_name("pyramid.npz")).items()}


def largest(a, b):
    return float((a - b).abs().max())


@pytest.mark.parametrize("name", NAMES)
def test_taps(name):
    analysis, synthesis = pyramid_filters(name)
    assert largest(torch.tensor(analysis, dtype=torch.float64), ORACLE[f"pf_{NAMES[name]}_h"]) < 1e-14
    assert largest(torch.tensor(synthesis, dtype=torch.float64), ORACLE[f"pf_{NAMES[name]}_g"]) < 1e-14


@pytest.mark.parametrize("name", NAMES)
def test_decomposition(name):
    low, band = split(ORACLE["x"], name)
    assert largest(low, ORACLE[f"lp_{NAMES[name]}_c"]) < 1e-12
    assert largest(band, ORACLE[f"lp_{NAMES[name]}_d"]) < 1e-12


@pytest.mark.parametrize("name", NAMES)
def test_synthesis_of_changed_coefficients(name):
    low, band = ORACLE[f"lp_{NAMES[name]}_c"], ORACLE[f"lp_{NAMES[name]}_d"]
    assert largest(merge(low + 0.1, band, name), ORACLE[f"lp_{NAMES[name]}_rec_cplus0p1"]) < 1e-12
