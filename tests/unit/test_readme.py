"""The README's table is the one that its rows give."""

from pathlib import Path

import pytest

from harness import protocol, specfile, store
from harness.comparison import COLUMNS, quick_table
from harness.report import to_markdown

ROOT = Path(__file__).parents[2]
EXAMPLE = ROOT / "results" / "examples" / "quickstart"


def test_the_readme_shows_what_the_example_rows_give() -> None:
    experiment = specfile.load(ROOT / "experiments" / "quickstart.yaml")
    ids = [run.run_id for run in protocol.plan(experiment)]
    assert set(store.finished(EXAMPLE)) == set(ids), (
        "the example rows are of another quickstart: run and copy them again"
    )
    rows = store.read_runs(EXAMPLE, list(COLUMNS), run_ids=ids)
    table = quick_table(rows, [method.label for method in experiment.methods], experiment.seeds)
    lines = [line for line in to_markdown(table).splitlines() if line.startswith(("|", "Floor"))]
    assert len(lines) == 7
    readme = (ROOT / "README.md").read_text().splitlines()
    assert [line for line in lines if line not in readme] == []


@pytest.mark.parametrize(
    "page", [*(ROOT / "docs").glob("*.md"), ROOT / "README.md", ROOT / "experiments" / "README.md"]
)
def test_links_between_pages_lead_somewhere(page: Path) -> None:
    import re

    for target in re.findall(r"\]\(([^)#]+)\)", page.read_text()):
        assert target.startswith("https://") or (page.parent / target).exists(), f"{page.name}: {target}"
