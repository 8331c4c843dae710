"""The distillers' losses, the critic and STLNet's modules against numbers that the authors' code printed.

distillers/INDEX.json describes each case and convention; `--distiller-oracles DIR` reads any other folder of that format
instead. Every (method, convention) has a map to a call of ours (distiller_maps.py, module_maps.py), or a reason in
NOT_OURS why it has none; without either the entry fails.
"""

import json
import re
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from sstkd.stlnet import PTFEM, STL, TEM, QCO1d, QCO2d
from tests.oracles.distiller_maps import Map, kd
from tests.oracles.module_maps import ALL_MAPS
from tests.oracles.not_ours import NOT_OURS
from tests.oracles.oracle_folder import Entry, Found, check_array, check_loss, differences, entries
from tests.oracles.safe_forms import FREE, SAFE

HERE = Path(__file__).parent / "distillers"
ORIGINAL = Path(__file__).parents[3] / "shared" / "oracles" / "distillers"


def folders(config: pytest.Config) -> dict[str, Path]:
    """By the name that stands in a test's id."""
    given = config.getoption("--distiller-oracles", default=None)
    if given:
        return {"given": Path(given)}
    return {"committed": HERE} | ({"original": ORIGINAL} if ORIGINAL.is_dir() else {})


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    found = {name: entries(folder) for name, folder in folders(metafunc.config).items()}
    for name, some in found.items():
        if not some:
            raise pytest.UsageError(f"the {name} folder of distiller oracles has no cases")
    if "entry" in metafunc.fixturenames:
        pairs = [(f"{name}-{entry}", entry) for name, some in found.items() for entry in some if not excluded(entry)]
        metafunc.parametrize("entry", [entry for _, entry in pairs], ids=[name for name, _ in pairs])
    elif "every_entry" in metafunc.fixturenames:
        metafunc.parametrize("every_entry", list(found.values()), ids=list(found))


def excluded(entry: Entry) -> bool:
    return (entry.method, entry.stem) in NOT_OURS


def mapped(entry: Entry) -> Map:
    """The call of ours that gives the entry's numbers.

    Raises:
        LookupError: nobody said which it is.
    """
    try:
        return ALL_MAPS[entry.method, entry.stem]
    except KeyError:
        file = entry.folder / entry.case["file"]
        raise LookupError(f"{entry.method}, convention {entry.name}: no map to a loss of ours ({file})") from None


def test_authors_numbers(entry: Entry) -> None:
    run, wanted = mapped(entry), entry.outputs
    ours = run(entry.inputs(), entry.hyper)
    # Without a number for a loss, neither have what is derived from it; queues and pointers have.
    nan = any(not theirs.isfinite().all() for theirs in wanted.values())
    assert wanted
    for name, theirs in wanted.items():
        if name == "loss_native_float32":
            found = run(entry.inputs(torch.float32), entry.hyper).output("loss")
            assert found.dtype == torch.float32 and float(found) == pytest.approx(float(theirs), rel=1e-5)
        elif nan and not name.endswith("_after"):
            check_defect(name, entry, ours)
        elif theirs.ndim:
            check_array(name, ours.output(name), theirs)
        else:
            check_loss(name, ours.output(name), theirs, ours.order)


def check_defect(name: str, entry: Entry, ours: Found) -> None:
    """The authors' code divides 0 by 0 for this entry: ours is finite and equal to a form that does not."""
    found = ours.output(name)
    assert found.isfinite().all(), f"{name}: ours is {found}"
    if entry.method in FREE:
        return
    assert (entry.method, entry.stem) in SAFE, f"{entry}: theirs is NaN, and no safe form says what ours should be"
    safe = SAFE[entry.method, entry.stem](entry.inputs(), entry.hyper)
    expected = safe.output(name)
    if found.ndim == 0:
        check_loss(name, found, expected, safe.order)
        return
    undefined = safe.undefined.get(name.rpartition("/")[2], torch.zeros_like(expected, dtype=torch.bool))
    check_array(name, found.masked_fill(undefined, 0), expected.masked_fill(undefined, 0))


def test_at_most_one_entry_in_seven_is_not_ours(every_entry: list[Entry]) -> None:
    found = {(entry.method, entry.name): excluded(entry) for entry in every_entry}
    assert 7 * sum(found.values()) <= len(found)
    assert not NOT_OURS.keys() & ALL_MAPS.keys() and all(NOT_OURS.values())


def test_a_defect_is_one_of_the_authors(every_entry: list[Entry]) -> None:
    """Safe forms give the authors' numbers, too, where there are any."""
    for entry in every_entry:
        safe = SAFE.get((entry.method, entry.stem))
        if safe is None or entry.method == "cirkd_memory":
            continue
        wanted = {name: x for name, x in entry.outputs.items() if name == "loss" or name.startswith("grad/")}
        if all(x.isfinite().all() for x in wanted.values()):
            found = safe(entry.inputs(), entry.hyper)
            for name, theirs in wanted.items():
                check = check_array if theirs.ndim else (lambda n, a, b: check_loss(n, a, b, 0.0))
                check(f"{entry}: {name}", found.output(name), theirs)


def test_the_committed_cases_prove_every_map_by_a_number_above_zero() -> None:
    committed = entries(HERE)
    proved = {(e.method, e.stem) for e in committed if any(x.ndim == 0 and abs(x) > 1e-7 for x in e.outputs.values())}
    assert proved - NOT_OURS.keys() == ALL_MAPS.keys()
    assert {(e.method, e.stem) for e in committed} >= NOT_OURS.keys()
    nan = {(e.method, e.stem) for e in committed if any(x.isnan().any() for x in e.outputs.values())}
    assert ("skd_pairwise", "skd-cvpr19-cos") in nan, "a case with a defect is committed"
    assert {e.hyper["mode"] for e in committed if e.method == "stlnet_tem"} == {"eval", "train"}


def test_the_committed_folder_is_small_and_complete() -> None:
    files = {path.name for path in HERE.iterdir()}
    assert files == {"INDEX.json"} | {entry.case["file"] for entry in entries(HERE)}
    assert sum(path.stat().st_size for path in HERE.iterdir()) <= 4_000_000


if ORIGINAL.is_dir():  # the full set of oracles is beside this checkout

    def test_the_committed_cases_are_the_originals() -> None:
        assert list(differences(HERE, ORIGINAL)) == []
        assert {entry.method for entry in entries(HERE)} == {entry.method for entry in entries(ORIGINAL)}


def test_an_unknown_convention_is_a_failure(tmp_path: Path) -> None:
    index = json.loads((HERE / "INDEX.json").read_text())
    (case, *_) = (case for case in index["cases"] if case["method"] == "pixel_kd")
    case["conventions"][0]["convention"] = "somebody-T3"
    (tmp_path / "INDEX.json").write_text(json.dumps({"format": 1, "cases": [case]}))
    shutil.copy(HERE / case["file"], tmp_path)
    entry, known, *_ = entries(tmp_path)
    with pytest.raises(LookupError, match=rf"pixel_kd, convention somebody-T3: .*{re.escape(str(tmp_path))}.*npz"):
        test_authors_numbers(entry)
    assert mapped(known) and not excluded(entry)


def test_an_unknown_output_is_a_failure() -> None:
    x = {name: torch.randn(1, 3, 2, 2, requires_grad=True) for name in ("logits_s", "logits_t")}
    found = kd("canonical")(x, {"T": 1.0})
    assert found.output("grad/logits_s").shape == (1, 3, 2, 2)
    for name in ("gain", "grad/features"):
        with pytest.raises(LookupError):
            found.output(name)


def peaked(folder: Path, method: str, convention: str, hyper: dict[str, Any]) -> Entry:
    """A case that the authors' softmax().log() has no number for, as the index would have it."""
    names = ("logits_s", "logits_t") if method == "pixel_kd" else ("pred_s", "pred_t")
    maps = [3000.0 * torch.randn(2, 3, 4, 5, generator=torch.Generator().manual_seed(seed)) for seed in (0, 1)]
    inputs = {name: x.double().numpy() for name, x in zip(names, maps, strict=True)}
    outputs = {"loss": np.array(np.nan), f"grad/{names[0]}": np.full(maps[0].shape, np.nan)}
    np.savez(folder / "peaked.npz", **inputs, **{f"out/{name}": x for name, x in outputs.items()})
    case = {
        "method": method,
        "case": "peaked",
        "file": "peaked.npz",
        "inputs": {name: {"key": name, "shape": list(x.shape)} for name, x in inputs.items()},
    }
    stored = {name: {"key": f"out/{name}", "shape": list(x.shape)} for name, x in outputs.items()}
    return Entry(folder, case, {"convention": convention, "hyperparameters": hyper, "outputs": stored})


@pytest.mark.parametrize(
    ("method", "convention", "hyper"),
    [
        ("pixel_kd", "torchdistiller-spatial-kl-T4", {"T": 4}),
        ("pixel_kd", "skd-authors", {"T": 1}),
        ("pixel_kd", "ifvd-authors-T1", {"T": 1}),
        ("pixel_kd", "mmrazor-T2", {"T": 2}),
        ("cwd", "torchdistiller-tau4", {"tau": 4.0}),
        ("cwd", "mmseg-distiller-tau1", {"tau": 1.0}),
    ],
)
def test_ours_is_a_number_where_theirs_is_none(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, method: str, convention: str, hyper: dict[str, Any]
) -> None:
    entry = peaked(tmp_path, method, convention, hyper)
    test_authors_numbers(entry)
    with monkeypatch.context() as patched:
        patched.delitem(SAFE, (entry.method, entry.stem))
        with pytest.raises(AssertionError, match="no safe form says"):
            test_authors_numbers(entry)
    for wrong in (1.0 + 1e-8, float("nan")):
        run = mapped(entry)

        def other(x: dict[str, torch.Tensor], hyper: Any, run: Map = run, wrong: float = wrong) -> Found:
            return Found({"loss": run(x, hyper).losses["loss"] * wrong}, x)

        with monkeypatch.context() as patched:
            patched.setitem(ALL_MAPS, (entry.method, entry.stem), other)
            with pytest.raises(AssertionError):
                test_authors_numbers(entry)


@pytest.mark.parametrize("wrong", [1.0 + 2e-9, 1.0 - 2e-9, float("nan")])
def test_a_wrong_loss_is_a_failure(wrong: float) -> None:
    check_loss("loss", torch.tensor(3.0).double(), torch.tensor(3.0).double(), 0.0)
    with pytest.raises(AssertionError):
        check_loss("loss", torch.tensor(3.0).double() * wrong, torch.tensor(3.0).double(), 0.0)


@pytest.mark.parametrize("wrong", [2e-6, -2e-6, float("nan")])
def test_a_wrong_element_of_a_gradient_is_a_failure(wrong: float) -> None:
    right = torch.tensor([1e-3, -5.0])
    check_array("grad", right, right)
    with pytest.raises(AssertionError):
        check_array("grad", right + torch.tensor([5 * wrong, 0.0]), right)
    with pytest.raises(AssertionError):
        check_array("grad", right[:1], right)


@pytest.mark.parametrize(
    ("module", "parameters"),
    [
        (lambda: QCO1d(128), 664448),
        (lambda: QCO2d(1, 8), 74432),
        (lambda: TEM(128), 746880),
        (PTFEM, 560384),
        (lambda: STL(2048), 1832064),
    ],
)
def test_parameters_of_the_widths_stlnet_was_released_with(module: type[torch.nn.Module], parameters: int) -> None:
    with torch.device("meta"):
        assert sum(p.numel() for p in module().parameters()) == parameters
