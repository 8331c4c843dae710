"""The contourlet transform against numbers of the authors' MATLAB toolbox v2.0 (GNU Octave 7.3, float64).

Files, here or in the folder given as `--contourlet-oracles DIR`; every case in them is a test, but for
those in NOT_USED, which this project has nothing to compare with; a file or a filter that is not known fails:

- inputs.npz: images by name; pdfb_<image>_<pyramid>_<directional>.npz: n<levels>/low, n<levels>/lev<i>_band<bb>, levels
  and their bands coarse to fine.
- dfb_<H>x<W>.npz: image x, <family>_k<k>_b<bb>: the directional bank alone.
- pyramid_*.npz: image x, lp_<pyramid>_c and _d (one level), _rec_cplus0p1 (what is made of c + 0.1), wfb_<pyramid>_LL ...
- equivalent_filters.npz: <family>_k<k>_b<bb>, origin of the indices in <family>_k<k>_origin.
- primitives_*.npz: single steps on the image x. filters.npz: taps. maxflat_*.npz: h, g, h0, h1, x, n<levels>_<band>.
"""

import re
from functools import cache
from pathlib import Path

import numpy as np
import pytest
import torch

from sstkd import _toolbox, contourlet, directional_filter_bank, inverse_contourlet, inverse_directional_filter_bank
from sstkd import _tree as tree
from sstkd._scratch import Scratch
from sstkd.filters import FanFilters, PyramidFilters, fan_filters, ladder_taps, pyramid_filters
from sstkd.laplacian import merge, split

HERE = Path(__file__).with_name("contourlet")
TOLERANCE = 1e-10
PYRAMIDS = {"97": "9-7", "9_7": "9-7", "53": "5-3", "5_3": "5-3", "Burt": "Burt", "pkva": "pkva"}
DIRECTIONAL = {"97": "9-7", "53": "5-3", "pkva": "pkva", "pkva6": "pkva6", "pkva8": "pkva8"}
FAMILIES = {"ladder_pkva": "pkva", "fir_9_7": "9-7", "fir_pkva": "pkva-fir"}
# What the files hold beside what this project implements, and why; a key is matched as a whole.
NOT_USED = {
    r"primitives/qpdec_(1c|2r)_p1": "the FIR bank keeps only the first half of these splits",
    r"primitives/extend2_qper_row": "no split extends that way",
    r"primitives/sefilter2_.*": "the filter is not in the file; fbdec_l checks the same step with a known one",
}


@cache
def arrays(folder, name):
    return {key: np.ascontiguousarray(value) for key, value in np.load(folder / f"{name}.npz").items()}


def cases(folder):
    """(file, case) of every file; a case is a group of keys that one transform gives, or one key."""
    for path in sorted(folder.glob("*.npz")):
        name, found = path.stem, []
        if name in ("inputs", "clahe_oracle_128"):  # images only; test_clahe_oracle.py has the other
            continue
        for key in np.load(path).files:
            if key == "x" or key.endswith("origin"):
                continue
            if name.startswith("pdfb_"):
                key = key.split("/")[0]
            elif name.startswith("dfb_"):
                key = key.rsplit("_b", 1)[0]
            elif name.startswith("maxflat_"):
                if re.fullmatch("[hg][01]?", key):
                    continue
                key = re.sub("_(low|lev.*)", "", key)
            elif name.startswith("pyramid_"):
                key = "_".join(key.split("_")[:2] if key.split("_")[1] in PYRAMIDS else key.split("_")[:3])
            if key not in found:
                found.append(key)
        yield from ((name, key) for key in found)


def not_used(name, case):
    return any(re.fullmatch(pattern, f"{name.split('_')[0]}/{case}") for pattern in NOT_USED)


def pytest_generate_tests(metafunc):
    given = metafunc.config.getoption("--contourlet-oracles", default=None)
    folder = Path(given) if given else HERE
    found = list(cases(folder))
    if not found:
        raise pytest.UsageError(f"{folder} has no oracle files")
    found = [(name, case) for name, case in found if not not_used(name, case)]
    metafunc.parametrize(("folder", "name", "case"), [(folder, *c) for c in found], ids=["-".join(c) for c in found])


def largest(ours, theirs):
    theirs = torch.from_numpy(np.asarray(theirs))
    assert tuple(ours.shape[-2:]) == tuple(theirs.shape), (ours.shape, theirs.shape)
    return float((ours.reshape(theirs.shape) - theirs).abs().max())


def test_case(folder, name, case):
    kind = name.split("_")[0]
    checks = {
        "pdfb": check_transform,
        "dfb": check_bank,
        "pyramid": check_pyramid,
        "equivalent": check_equivalent_filter,
        "primitives": check_primitive,
        "filters": check_taps,
        "maxflat": check_own_filters,
    }
    assert kind in checks, f"{name}.npz is of an unknown kind"
    checks[kind](folder, name, case)


def check_transform(folder, name, case):
    image, pyramid, directional = re.fullmatch("pdfb_(.+_.+)_(.+)_(.+)", name).groups()
    x = torch.from_numpy(arrays(folder, "inputs")[image])[None, None]
    same_coefficients(x, case, PYRAMIDS[pyramid], DIRECTIONAL[directional], arrays(folder, name), case + "/")


def check_own_filters(folder, name, case):
    data = arrays(folder, name)
    pyramid = PyramidFilters(tuple(data["h"].ravel().tolist()), tuple(data["g"].ravel().tolist()))
    bank = FanFilters(data["h0"], data["h1"])
    same_coefficients(torch.from_numpy(data["x"])[None, None], case, pyramid, bank, data, case + "_")


def same_coefficients(x, case, pyramid, directional, data, prefix):
    levels = tuple(int(k) for k in case.removeprefix("n").split("_"))
    ours = contourlet(x, levels, pyramid, directional, "toolbox")
    assert largest(ours.lowpass, data[prefix + "low"]) < TOLERANCE
    for i, bands in enumerate(ours.bands):
        theirs = [data[key] for key in sorted(data) if key.startswith(f"{prefix}lev{i + 1}_band")]
        assert len(theirs) == len(bands)
        for b, (band, other) in enumerate(zip(bands, theirs, strict=True)):
            assert largest(band, other) < TOLERANCE, f"level {i + 1}, band {b}"
    assert largest(inverse_contourlet(ours), x[0, 0]) <= 1e-12 * float(x.abs().max())


def check_bank(folder, name, case):
    family, k = re.fullmatch("(.+)_k(.+)", case).groups()
    data = arrays(folder, name)
    x = torch.from_numpy(data["x"])[None, None]
    ours = directional_filter_bank(x, int(k), FAMILIES[family], "toolbox")
    assert len(ours) == 2 ** int(k)
    for b, band in enumerate(ours):
        assert largest(band, data[f"{case}_b{b:02d}"]) < TOLERANCE, f"band {b}"
    assert largest(inverse_directional_filter_bank(ours, FAMILIES[family], "toolbox"), x[0, 0]) < 1e-12


def check_pyramid(folder, name, case):
    data = arrays(folder, name)
    step, pyramid = case.split("_", 1)
    x = torch.from_numpy(data["x"])
    if step == "wfb":
        ours = contourlet(x, (0,), PYRAMIDS[pyramid], "pkva", "toolbox")
        for part, band in zip(("LL", "LH", "HL", "HH"), (ours.lowpass, *ours.bands[0]), strict=True):
            assert largest(band, data[f"{case}_{part}"]) < TOLERANCE
        return
    low, band = split(x, PYRAMIDS[pyramid])
    assert largest(low, data[f"{case}_c"]) < TOLERANCE
    assert largest(band, data[f"{case}_d"]) < TOLERANCE
    if f"{case}_rec_cplus0p1" in data:  # tells the framing-pyramid synthesis from the plain sum
        assert largest(merge(low + 0.1, band, PYRAMIDS[pyramid]), data[f"{case}_rec_cplus0p1"]) < TOLERANCE


def check_equivalent_filter(folder, name, case):
    """Periodic mode is circular convolution with the equivalent filter, sampled on the band's lattice."""
    family, k, b = re.fullmatch("(.+)_k(.)_b(..)", case).groups()
    k, b, data = int(k), int(b), arrays(folder, name)
    step = 2 ** max(k - 1, 1)
    for height, width in ((6 * step, 10 * step), (64, 64)):
        x = np.random.default_rng(height + width).standard_normal((height, width))
        taps = np.zeros((height, width))
        rows, cols = (np.arange(n) for n in data[case].shape)
        row, col = data[f"{family}_k{k}_origin"].ravel().astype(int)
        # Read off a re-sheared grid, the filters of k = 1 have their odd columns one row too low.
        low = (cols - col) % 2 if k == 1 else 0
        np.add.at(taps, ((rows[:, None] - row - low) % height, (cols - col) % width), data[case])
        full = np.fft.ifft2(np.fft.fft2(taps) * np.fft.fft2(x)).real
        if k == 1:  # a quincunx lattice, its odd columns one row up
            theirs = np.where(np.arange(width) % 2, np.roll(full, 1, 0)[::2], full[::2])
        else:
            theirs = full[::step, ::2] if b < 2 ** (k - 1) else full[::2, ::step]
        ours = directional_filter_bank(torch.from_numpy(x), k, FAMILIES[family])[b]
        assert largest(ours, theirs) < TOLERANCE


def check_primitive(folder, name, case):
    data = arrays(folder, name)
    x = data["x"]
    ids = np.arange(x.size).reshape(x.shape)
    step, _, rest = case.partition("_")
    if step == "resamp":
        kind, amount = re.fullmatch("t(.)_s(.+)", rest).groups()
        ours = tree.sheared(ids, int(kind), int(amount.replace("m", "-")))
    elif step == "qpdec" and rest in ("1c_p0", "2r_p0"):
        ours = tree.kept(ids, tree.PARALLELOGRAM[3 if rest == "1c_p0" else 1])
    elif step == "qpdec":
        ours = tree.polyphase(ids, {"1r": tree.FIRST, "2c": tree.SECOND}[rest[:2]])[int(rest[-1])]
    elif step == "ppdec":
        ours = tree.polyphase(ids, tree.PARALLELOGRAM[int(rest[0]) - 1])[int(rest[-1])]
    elif step == "extend2":
        height, width = x.shape
        rows = [_toolbox._shifted(ids, (i, 0), rest == "qper_col")[0] for i in range(-3, height + 4)]
        ours = np.stack([row[np.arange(-5, width + 2) % width] for row in rows])
    else:
        assert step == "fbdec", case
        check_ladder_step(x, rest.removeprefix("l_"), data[case])
        return
    assert largest(torch.from_numpy(x.ravel()[ours]), data[case]) == 0.0


def check_ladder_step(x, case, theirs):
    split_ = {"q1r": tree.FIRST, "q2c": tree.SECOND}.get(case[:3]) or tree.PARALLELOGRAM[int(case[1]) - 1]
    steps = []
    ids = np.arange(x.size).reshape(x.shape)
    ((pair),) = _toolbox._ladder_level(steps, 1 if case.startswith("q1r") else 2, [split_], [(ids, 1.0)], "pkva")
    place, factor = pair[int(case[-1])]
    cpu, dtype = torch.device("cpu"), torch.float64
    bank = _toolbox._directed(steps, "analysis", lambda s: _toolbox.table(s, cpu, dtype), cpu, dtype)
    out = _toolbox._run(bank, torch.from_numpy(x).reshape(-1, 1), Scratch())
    assert largest(factor * out[torch.from_numpy(place), 0], theirs) < TOLERANCE


def check_taps(folder, name, case):
    theirs = arrays(folder, name)[case]
    what, _, rest = case.partition("_")
    if what == "pf":
        pair = pyramid_filters(PYRAMIDS[rest[:-2]])
        ours = np.array([pair.analysis if rest.endswith("h") else pair.synthesis])
    elif what == "ldfilter":
        ours = ladder_taps({"pkva12": "pkva"}.get(rest, rest))[None]
    elif what == "df" and rest.startswith("haar"):  # the toolbox's bank does not reconstruct with it
        low, high = (arrays(folder, name)[f"{case[:-1]}{i}"] for i in (0, 1))
        with pytest.raises(ValueError, match="two odd sides are needed"):
            FanFilters(low, high)
        return
    else:
        bank, direction, number = re.fullmatch(r"(.+?)_?([drf][01]?)_h?(\d)", rest).groups()
        diamonds = fan_filters({"9_7": "9-7", "5_3": "5-3"}.get(bank, f"{bank}-fir"))
        ours = (diamonds.low, diamonds.high)[int(number if what == "df" else direction[1])]
        if direction == "r":  # the dual pair: the other filter, modulated
            other = (diamonds.high, diamonds.low)[int(number)]
            i, j = np.indices(other.shape)
            ours = other * (-1.0) ** (i + j - sum(other.shape) // 2)
            ours = ours if float((ours * theirs).sum()) > 0 else -ours
        if what == "ffilters":
            axis = tree.PARALLELOGRAM[int(number)].fan_axis
            ours = ours * (-1.0) ** (np.indices(ours.shape)[axis] - ours.shape[0] // 2)
    assert largest(torch.from_numpy(ours), theirs) < 1e-13
