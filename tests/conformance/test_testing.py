"""Every property can fail: a sound distiller passes `check_distiller`, and each of its broken copies does not."""

import importlib
import re
from pathlib import Path

import pytest

from harness.distillers import KD, Distiller
from harness.testing import PROPERTIES, Case, check_distiller, check_property
from harness.testing.ranks import disagreements
from tests.conformance.breaks import BREAKS
from tests.conformance.sound import Sound

SOURCE = (Path(__file__).parent / "sound.py").read_text()
RANKS = {  # two processes start for these, which takes seconds: both at once, after the sound one
    "what only one rank saw": ("centre differ between two ranks", ("if dist.is_initialized():", "if False:")),
    "a rank that fails": (
        "alone only",
        ("dist.all_reduce(mean)\n", 'raise RuntimeError("alone only")\n'),
    ),
}


def copy_of(name: str, folder: Path, *swaps: tuple[str, str]) -> type[Distiller]:
    """The sound distiller with pieces of its source replaced, imported."""
    source = SOURCE
    for old, new in swaps:
        assert source.count(old) == 1, f"{name}: {old!r} is {source.count(old)} times in sound.py"
        source = source.replace(old, new)
    module = "broken_" + re.sub(r"\W", "_", name)
    (folder / f"{module}.py").write_text(source)
    importlib.invalidate_caches()
    found: type[Distiller] = importlib.import_module(module).Sound
    return found


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.syspath_prepend(tmp_path)
    return tmp_path


@pytest.mark.slow
def test_a_sound_distiller_passes() -> None:
    check_distiller(Sound)
    check_property(Case(Sound, {"weight": 0.5}), "weighted")


@pytest.mark.parametrize("name", BREAKS)
def test_a_broken_distiller_is_refused_by_the_property_it_breaks(name: str, folder: Path) -> None:
    broken, says, swaps = BREAKS[name]
    with pytest.raises(AssertionError) as caught:
        check_distiller(copy_of(name, folder, *swaps))
    told = str(caught.value)
    assert f"Sound: property {broken}: " in told and says in told, told


@pytest.mark.slow
def test_two_ranks_that_differ_or_fail_are_told(folder: Path) -> None:
    cases = [Case(copy_of(name, folder, swap)) for name, (_, swap) in RANKS.items()]
    for (says, _), told in zip(RANKS.values(), disagreements(cases), strict=True):
        assert told is not None and says in told


def test_every_property_is_broken_by_something() -> None:
    assert {broken for broken, _, _ in BREAKS.values()} | {"two-ranks"} == PROPERTIES.keys()


def test_a_waiver_needs_a_known_property_and_a_reason() -> None:
    for waived in ({"beauty": "it has none"}, {"minimum": " "}, {"beauty:kd": "it has none"}):
        with pytest.raises(ValueError, match=r"waived\['.*give a reason for one of contract, signature"):
            check_distiller(KD, waived=waived)


def test_what_is_waived_is_not_asked(folder: Path) -> None:
    for name in ("repelled by the teacher", "ignored pixels count", "a map for a term"):
        broken, _, swaps = BREAKS[name]
        kind = copy_of(name, folder, *swaps)
        check_property(Case(kind, waived={broken: "it is broken on purpose"}), broken)
    kind = copy_of("again", folder, *BREAKS["ignored pixels count"][2])
    check_property(Case(kind, waived={"ignored-pixels:error": "it is broken on purpose"}), "ignored-pixels")
    with pytest.raises(AssertionError, match="no term is left to check"):
        check_property(Case(Sound, waived={"minimum:error": "to see what is left"}), "minimum")


def test_a_distiller_that_does_not_apply_to_the_pair_is_told_apart(folder: Path) -> None:
    kind = copy_of("choosy", folder, ("        return None\n", '        return "it is choosy"\n'))
    with pytest.raises(
        ValueError, match=r"does not apply to the pair it is checked on: it is choosy.*stage1 8 channels"
    ):
        check_distiller(kind)


def test_a_class_that_cannot_be_imported_is_told() -> None:
    class Inner(Sound):
        """Not at the top level."""

    with pytest.raises(AssertionError, match="inherit from Distiller alone"):
        check_distiller(Inner)
    with pytest.raises(AssertionError, match="found at the top level of a module"):
        check_property(Case(Inner), "signature")


def test_parameters_are_named_in_messages() -> None:
    with pytest.raises(AssertionError, match=r"KD\(temperature=2\.0, convention=skd\): property seed: ValueError"):
        check_distiller(KD, temperature=2.0, convention="skd")
