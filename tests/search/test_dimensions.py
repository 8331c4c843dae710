"""docs/search.md states the number of dimensions of every method's space, tied and untied, as the code has them."""

import re
from pathlib import Path

from harness.distillers import METHODS
from harness.experiment.space import FACTOR, FACTORS, LR, space_of, tied_space_of
from tests.search.test_points import method

PAGE = (Path(__file__).parents[2] / "docs" / "search.md").read_text()
RANGE = (1e-3, 1e-1)


def line(name: str) -> str:
    """A method's line of the table."""
    untied, tied = space_of(method(name), (), RANGE), tied_space_of(method(name), (), RANGE)
    others = [f"`{each.name}`" for each in untied if each.name != LR]
    scaled = [f"`{weight}`" for each in tied if each.name == FACTOR for weight, _ in each.tied]
    cells = (f"`{name}`", str(len(tied)), ", ".join(scaled), str(len(untied)), ", ".join(others))
    return f"| {' | '.join(cells)} |".replace("|  |", "| |")


def test_the_table_is_that_of_the_code() -> None:
    wanted = [line(name) for name in METHODS]
    there = re.findall(r"^\| `[\w-]+` \| \d .*\|$", PAGE, re.MULTILINE)
    assert there == wanted, "the table in docs/search.md is:\n" + "\n".join(wanted)


def test_the_range_of_the_factor_is_in_the_page() -> None:
    assert f"[{FACTORS[0]:g}, {FACTORS[1]:g}]" in PAGE
