"""Tables in papers, on GitHub, on narrow terminals and in notebooks."""

import io
import re
import shutil
import subprocess
from html.parser import HTMLParser
from pathlib import Path
from types import SimpleNamespace

import pytest
from rich.console import Console

from harness.analysis.answer import best
from harness.analysis.columns import SCORE
from harness.analysis.sheets import Cell, Column, Remark, Section, Sheet, sheet
from harness.analysis.tables import BOLD, Table
from harness.report import console, formats
from harness.report.write import table_of

EXAMPLES = sorted(path.name for path in Path("results/examples").iterdir() if path.is_dir())
MISCHIEF = r"50 % of a_b & #1 {x} \y ~ ^2 <z> | [w] *"


def example(name: str) -> Table:
    return table_of(Path("results/examples") / name)[0]


def printed(name: str, width: int) -> list[str]:
    console.print_table(example(name), Console(file=(out := io.StringIO()), width=width, color_system=None))
    return out.getvalue().splitlines()


# --- LaTeX


def mischief() -> Sheet:
    remarks = (Remark(MISCHIEF, "failed"), Remark(f"{MISCHIEF} -1.5 ± 0.2 ▲ ▼ – … é", "unfair"))
    sections = (Section("a", MISCHIEF, above=True), Section("b", MISCHIEF, remarks))
    rows = ((Cell(MISCHIEF), Cell("-1.50 [-2.00, +1.00] ▼", best=True)), (Cell(f"[2] {MISCHIEF * 4}"), Cell("–")))
    return Sheet("a_b %", MISCHIEF, (Column(MISCHIEF, "left"), Column("v")), rows, sections, what=MISCHIEF)


@pytest.mark.skipif(shutil.which("pdflatex") is None, reason="no pdflatex")
@pytest.mark.parametrize("options", ["", "[twocolumn]"])
@pytest.mark.parametrize("name", ["quickstart", "believe", "sensitivity", "mischief"])
def test_latex_compiles_with_the_packages_it_names(name: str, options: str, tmp_path: Path) -> None:
    """Without an error, a glyph that is missing, or a line that is wider than the page."""
    body = formats.sheets_to_latex([mischief()]) if name == "mischief" else example(name).to_latex()
    (needed,) = re.findall(r"^% needs (\\usepackage\{[a-z,]+\})", body, re.MULTILINE)
    head = rf"\documentclass{options}{{article}}{needed}\begin{{document}}"
    (tmp_path / "t.tex").write_text(f"{head}\nText.\n{body}\nText.\n\\end{{document}}\n", encoding="utf-8")
    for _ in range(2):
        command = ["pdflatex", "-interaction=nonstopmode", "-halt-on-error", "t.tex"]
        done = subprocess.run(command, cwd=tmp_path, check=False, capture_output=True)
        assert done.returncode == 0, done.stdout.decode(errors="replace")[-2000:]
    log = (tmp_path / "t.log").read_text(errors="replace")
    assert not re.search(r"Missing character|undefined|Overfull|Float too large", log)


def test_a_latex_table_has_its_fairness_report_apart() -> None:
    """Caption and short notes in the float; the fairness report after it."""
    table = example("quickstart")
    text = table.to_latex()
    (inside,) = re.findall(r"\\begin\{table\*\}.*?\\end\{table\*\}", text, re.DOTALL)
    (caption,) = re.findall(r"\\caption\{(.*)\}\n", inside)
    assert caption.startswith("quickstart, unet-r18d-to-r10t on texmosaic: mIoU in percent on val")
    assert caption.count(". ") == 0 and caption.endswith(".") and r"\label{tab:quickstart-1}" in inside
    after = text.replace(inside, "")
    assert "Single-pixel baseline: 40.58" in inside and "Single-pixel" not in after
    for words in ("unfair: sstkd", "note: nothing is tuned", "Compared on", "weights chosen by this project"):
        assert words in after and words not in inside
    assert after.count(r"\item") == len(table.blocks[0].findings) + len(table.blocks[0].caveats)


def test_latex_says_minus_plus_minus_and_dash() -> None:
    text = example("quickstart").to_latex()
    assert r"& $-$0.98 {[}$-$3.92, +1.97] &" in text and r"63.19 $\pm$ 2.20" in text and r"$\uparrow$" in text
    rows = re.findall(r"^.* \\\\$", text, re.MULTILINE)
    assert any(" & -- & " in row for row in rows)
    assert not any(re.search(r"(?<![-$])-[0-9]", row) for row in rows)
    assert "unet-r18d" in text  # a hyphen of a name


def test_a_failed_run_is_said_in_the_float() -> None:
    remarks = (Remark("seed 1 failed", "failed"), Remark("too few seeds", "unfair"))
    made = Sheet("t", "t", (Column("method", "left"),), ((Cell("a"),),), (Section("notes", "", remarks),))
    inside, after = formats.sheets_to_latex([made]).split(r"\end{table*}")
    assert "seed 1 failed" in inside and "seed 1 failed" not in after
    assert "unfair: too few seeds" in after and "too few seeds" not in inside


# --- bold


def test_bold_is_what_the_page_has_bold() -> None:
    """The rule is `harness.analysis.answer.best`."""
    seen = set()
    for name in EXAMPLES:
        table = example(name)
        (block,) = table.blocks
        top = best(block)
        found = [(row[0].text, i) for row in table.sheets()[0].rows for i, cell in enumerate(row) if cell.best]
        assert found == ([] if top is None else [(top.label, 1)])
        for text, bold in (
            (table.to_markdown(), "| **"),
            (table.to_latex(), r"\textbf{" + f"{top and top.miou and top.miou.mean:.2f}" if top else r"& \textbf{"),
            (table.to_html(), "<strong>"),
        ):
            assert text.count(bold) == (top is not None)
            assert (BOLD in text) is (top is not None)
        seen.add(top is None)
    assert seen == {True, False} and SCORE.column.name == "mIoU (val)"


def test_markdown_is_a_table_of_github() -> None:
    made = sheet("t", "t", ["method", "a|b"], [["x|y", "-1.50 ± 0.20"]])
    lines = formats.sheets_to_markdown([made]).splitlines()
    assert lines[2:5] == [r"| method | a\|b |", "|---|---:|", r"| x\|y | -1.50 ± 0.20 |"]
    text = example("quickstart").to_markdown()
    assert "| **71.11 ± 1.94 (n=5)** |" in text and not re.search(r"(?<!\\)<", text)


# --- terminal


@pytest.mark.parametrize("width", [80, 100])
@pytest.mark.parametrize("name", EXAMPLES)
def test_no_cell_is_wrapped_in_a_narrow_window(name: str, width: int) -> None:
    lines = printed(name, width)
    assert max(map(len, lines)) <= width
    (one,) = example(name).sheets()
    start, end = (next(i for i, line in enumerate(lines) if line.startswith(word)) for word in ("none  ", "Compared"))
    body = lines[start:end]
    blocks = sum(line.startswith("none  ") for line in lines)
    for i, row in enumerate(one.rows):
        mine = [body[i]] + [line for line in body[len(one.rows) :] if line.split("  ")[0] == body[i].split("  ")[0]]
        assert len(mine) == blocks  # the line of a name in each part of the columns
        whole = " ".join(" ".join(mine).split())
        assert all(str(cell) in whole for cell in row[1:])


@pytest.mark.parametrize("name", ["quickstart", "ablation-sstkd"])
def test_where_there_is_room_a_table_is_one(name: str) -> None:
    lines = printed(name, 300)
    assert sum(line.startswith("none  ") for line in lines) == 1 and not any("(…" in line for line in lines)


def test_a_cell_wider_than_the_window_is_broken_last() -> None:
    made = sheet("t", "t", ["method", "v", "w"], [["a", f"{'1' * 30} [{'2' * 30}]", "3"]])
    console.print_sheet(made, Console(file=(out := io.StringIO()), width=40))
    assert max(map(len, out.getvalue().splitlines())) <= 40 and "1" * 30 in out.getvalue()


@pytest.fixture
def terminal(monkeypatch: pytest.MonkeyPatch) -> SimpleNamespace:
    """A terminal of 80 columns in place of standard output."""
    out = io.StringIO()
    made = Console(file=out, width=80, force_terminal=True, color_system=None)
    monkeypatch.setattr(console, "output", lambda: made)
    return SimpleNamespace(lines=lambda: [line.rstrip() for line in out.getvalue().splitlines()])


def test_columns_left_out_are_named(terminal: SimpleNamespace) -> None:
    """First those with one value, then those that do not fit, from the left."""
    rows = [["a", "ok", "", "1" * 40, "x" * 60, str(i)] for i in range(3)]
    rows[1][3] = "2" * 40
    rows[1][4] = "y" * 60
    console.print_columns(["id", "status", "none", "first", "second", "last"], rows, whole="SHOW prints a row")
    lines = terminal.lines()
    assert lines[:2] == [f"first{' ' * 37}last", f"{'1' * 40}  0"]
    assert lines[4:6] == ["In every row: id a, status ok.", "Empty in every row: none."]
    assert " ".join(lines[6:]) == (
        "Too wide for this window: second. A pipe (| cat) shows every column; SHOW prints a row."
    )


def test_columns_that_fit_are_all_shown(terminal: SimpleNamespace) -> None:
    console.print_columns(["id", "status"], [["a", "ok"], ["b", "ok"]], whole="SHOW")
    assert terminal.lines() == ["id  status", "a   ok", "b   ok"]


def test_numbers_are_not_broken_and_texts_between_words(terminal: SimpleNamespace) -> None:
    numbers = [f"{i}{'7' * 13}" for i in range(4)]
    console.print_columns(["name", *"abcd", "text"], [["one two", *numbers, "some words " * 9]], right=tuple("abcd"))
    lines = terminal.lines()
    assert max(map(len, lines)) <= 80
    assert all(number in " ".join(lines) for number in numbers) and lines.count("") == 1
    words = " ".join(lines).split()
    assert words.count("some") == words.count("words") == 9 and words.count("one") == 2


# --- notebook


class Seen(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.said = ""

    def handle_starttag(self, tag: str, attrs: object) -> None:
        self.tags.append(tag)

    def handle_data(self, data: str) -> None:
        self.said += data


def test_a_notebook_shows_the_table() -> None:
    table = example("quickstart")
    seen = Seen()
    seen.feed(text := table._repr_html_())
    assert seen.tags.count("table") == seen.tags.count("caption") == 1
    assert set(seen.tags) <= {"table", "caption", "thead", "tbody", "tr", "th", "td", "div", "ul", "li", "strong"}
    assert "<caption>quickstart, unet-r18d-to-r10t on texmosaic</caption>" in text
    assert "71.11 ± 1.94 (n=5)" in seen.said
    for remark in table.blocks[0].findings:
        assert str(remark) in seen.said


def test_a_notebook_shows_names_and_obeys_none() -> None:
    (block,) = example("quickstart").blocks
    name = "<script>alert(1)</script>"
    seen = Seen()
    seen.feed(Table(name, "2.0", (block,))._repr_html_())
    assert "script" not in seen.tags and name in seen.said
