"""One word per thing: phrases that were replaced do not come back."""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
# What is not written, and what is.
REPLACED = {
    r"to (its|a) row\b|ha(s|ve) (its|their) rows?\b": "finish a run; a finished run",
    r"com(e|es|ing) home|bring_home": "rows are fetched",
    r"taken up again|takes? (it )?up again": "resumed",
    r"same command (continues|goes on)": "re-run the same command to resume",
    r"no rows? yet": "pending; no results yet",
    r"g[ai]ve(s)? way": "yielded, preempted, replaced",
    r"\btorn\b|[Hh]al(f|ves) of (a )?files?": "partially written; corrupt",
    r"again and again|c[oa]m(e|es|ing) further": "repeatedly; without progress",
    r"mistakes? of (the|a) user|user's mistake": "usage error",
    r"is told (as|by)|[Aa]fter mending": "is reported; is detected; fix the cause",
    r"nothing is wrong|is this machine ready": "no problems found; environment check",
    r"[Pp]ercent points|[Bb]eyond.noise": "percentage points; significant (corrected)",
    r"[Pp]lain student|best look-up": "student without distillation (baseline); single-pixel baseline",
    r"[Mm]ultiply.adds?\b": "MACs",
    r"\b(Shelf|Lanes|Board|GiveWay)\b|sendrows|jobenv|clirun": "SharedObjects, Pool, ProgressActor, ...",
}
FILES = [
    path
    for pattern in ("harness/**/*.py", "sstkd/**/*.py", "docs/*.md", "experiments/*.yaml", "*.md")
    for path in sorted(ROOT.glob(pattern))
    if path.name != "CHANGELOG.md"  # which names what was replaced
]


def test_everything_is_looked_at() -> None:
    names = {str(path.relative_to(ROOT)) for path in FILES}
    assert {"README.md", "docs/results.md", "harness/bench.py", "harness/cli/run.py", "sstkd/cdm.py"} <= names


@pytest.mark.parametrize("phrase", REPLACED)
def test_a_replaced_phrase_is_nowhere(phrase: str) -> None:
    found = [
        f"{path.relative_to(ROOT)}:{number}: {line.strip()}"
        for path in FILES
        for number, line in enumerate(path.read_text().splitlines(), 1)
        if re.search(phrase, line)
    ]
    assert found == [], f"write: {REPLACED[phrase]}"
