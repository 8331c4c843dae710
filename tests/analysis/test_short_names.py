"""Names of lines where there is little room."""

import pytest

from harness.analysis.sheets import Remark, Section, Sheet, sheet
from harness.analysis.short_names import NAMES, with_short_names

LONG = "m(alpha=1.0, beta=2, levels=[3, 4])"


def named(names: list[str], most: int = 20, limit: int = 40, sections: tuple[Section, ...] = ()) -> Sheet:
    made = sheet("t", "t", ["method", "value"], [[name, "1"] for name in names])
    made = Sheet(made.id, made.title, made.columns, made.rows, sections)
    return with_short_names(made, most, limit)


def first(made: Sheet) -> list[str]:
    return [str(row[0]) for row in made.rows]


def said(made: Sheet) -> list[str]:
    return [str(x) for section in made.sections if section.name == NAMES for x in section.remarks or ()]


def test_what_most_lines_share_is_said_once() -> None:
    made = named([LONG, LONG.replace("2", "5"), LONG.replace("[3, 4]", "[4]"), "none"])
    assert first(made) == ["m(…)", "m(…, beta=5)", "m(…, levels=[4])", "none"]
    assert said(made) == ["m(…) has alpha=1.0, beta=2, levels=[3, 4] where not named"]


def test_short_names_are_left_as_they_are() -> None:
    names = ["m(alpha=1.0)", "m(alpha=2.0)", "none at equal seconds"]
    assert named(names, most=21).sections == () and first(named(names, most=21)) == names
    assert first(named([*names, LONG, LONG.replace("2", "3")]))[:3] == names  # other parameters, none too long


@pytest.mark.parametrize("name", ["m (of the paper, in full words)", "package.module:MethodOfManyLetters", LONG])
def test_a_name_that_shares_nothing_is_cut_and_said_in_full(name: str) -> None:
    made = named(["none", name], limit=20)
    assert first(made) == ["none", f"[2] {name[:15]}…"] and said(made) == [f"[2] {name}"]
    assert len(first(made)[1]) == 20


def test_names_stay_different() -> None:
    """Lines with other parameters of the same method are not shortened to the same."""
    names = [f"m({key}=1, {other}=2)" for key, other in (("alpha", "beta"), ("gamma", "delta"))]
    made = named([text for name in names for text in (name, name.replace("1", "7"))], most=10)
    assert len(set(first(made))) == 4
    assert first(made)[:2] == ["m(…)", "m(…, alpha=7)"] and first(made)[2:] == [names[1], names[1].replace("1", "7")]


def test_remarks_have_the_short_names() -> None:
    sections = (
        Section("about", f"above: {LONG}", above=True),
        Section("notes", f"of {LONG}", (Remark(f"{LONG}: x", "unfair"),)),
    )
    made = named([LONG, LONG.replace("2", "5")], sections=sections)
    assert [section.name for section in made.sections] == ["about", NAMES, "notes"]
    assert made.sections[0].head == "above: m(…)"
    assert made.sections[2].texts == ["of m(…)", "unfair: m(…): x"]


def test_a_name_that_ends_as_another_does_keeps_its_own() -> None:
    names = [LONG, LONG.replace("2", "5"), f"d{LONG}"]
    made = named(names, limit=60, sections=(Section("notes", f"of d{LONG} and {LONG}"),))
    assert first(made)[2] == names[2] and made.sections[-1].head == f"of d{LONG} and m(…)"
