"""Names and messages at every border: terminal, Markdown, HTML, LaTeX, CSV, shell and paths."""

import csv
import io
import json
import os
import re
import shlex
import subprocess
from html.parser import HTMLParser

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from harness import borders
from harness.analysis.sheets import sheet
from harness.experiment.storage_uri import require_storage
from harness.report.formats import sheets_to_csv, sheets_to_html, sheets_to_latex
from harness.results import store
from tests.support import hostile
from tests.support.base import BASE
from tests.support.rows import make_row

pytestmark = pytest.mark.slow

NAMES = (
    "\x1b[31mred", "\x1b]0;title\x07", "\x1b[2J", "\x9b31m", "a\rb", "a\bb", "a\x7fb", "\u202eabc", "a\nb", "\t",
    "[x](javascript:alert(1))", "[x]: javascript:alert(1)", "![x](http://h/i.png)", "<javascript:x>", "| a | b |",
    "<script>alert(1)</script>", "</script><b>", '" onclick="x', "&lt;b&gt;", "<!--",
    r"\input{/etc/passwd}", "a_b^c~d%e#f$g&h", r"\end{tabular}", "{", "* [2pt]",
    '=HYPERLINK("http://h")', "+1+1", "-1+1", "@SUM(A1)", " =1", "\t=1", "\r=1",
    "$(id)", "`id`", "; rm -rf x", "a'b", 'a"b', "--results=/tmp", "../../x", "/etc/passwd", "~/x", "C:\\x",
)  # fmt: skip
TEXTS = st.one_of(
    st.sampled_from(NAMES), st.text(max_size=30), st.tuples(st.sampled_from(NAMES), st.text()).map("".join)
)
OBEYED = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069]")
few = settings(max_examples=60, deadline=None)


@few
@given(TEXTS)
def test_a_terminal_obeys_nothing(text):
    shown = borders.terminal(text)
    assert not OBEYED.search(shown) and borders.terminal(shown) == shown
    assert "\n" not in borders.one_line(text) and len(borders.one_line(text * 500)) <= 2_000
    assert shown == text or OBEYED.search(text) or not text.isascii()


@few
@given(TEXTS)
def test_markdown_has_no_link_cell_or_tag(text):
    shown = borders.markdown(text)
    assert not OBEYED.search(shown) and "\n" not in shown
    assert not re.search(r"(?<!\\)(\\\\)*[<>|`*_#&$~]", shown)
    assert not re.search(r"\][(\[:]", shown)


class Tags(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.tags: list[tuple[str, list[str]]] = []
        self.said = ""

    def handle_starttag(self, tag, attributes):
        self.tags.append((tag, [name for name, _ in attributes]))

    def handle_data(self, data):
        self.said += data


@few
@given(TEXTS)
def test_html_has_the_same_tags_whatever_the_names(text):
    found = []
    for name in (f"{text}n", "name"):
        parser = Tags()
        parser.feed(sheets_to_html([sheet(name, name, [name, "x"], [[name, name]], [name])], name))
        parser.close()
        found.append(parser.tags)
    assert found[0] == found[1]
    parser = Tags()
    parser.feed(f'<i title="{borders.html(text)}">{borders.html(text)}</i>')
    parser.close()
    assert parser.tags == [("i", ["title"])]


@few
@given(TEXTS)
def test_latex_has_the_same_macros_whatever_the_names(text):
    macros = re.compile(r"\\(?:input|include|write|def|end\{(?!(?:tabular|table\*|minipage|itemize)\}))")
    made = sheets_to_latex([sheet(text, text, [text], [[text]], [text])], text)
    assert not macros.search(made.replace(r"\textbackslash{}", ""))
    assert re.search(r"\\label\{tab:[A-Za-z0-9._-]+\}", made)
    shown = borders.latex(text)
    plain = re.sub(r"\\text[a-z]+\{\}|\\[&%$#_{}]|\$(\\[a-z]+|-)\$|\{[\[*]\}", "", shown)
    assert not re.search(r"[\\{}$&#^_%~*\[]", plain)


@few
@given(TEXTS)
def test_no_spreadsheet_computes_a_name(text):
    made = sheets_to_csv([sheet("a", "a", ["a"], [["a"]], records=lambda: [{"name": text, "value": -0.5}])])
    (row,) = csv.DictReader(io.StringIO(made, newline=""))
    assert not row["name"].lstrip().startswith(("=", "+", "-", "@")) and not OBEYED.search(row["name"])
    assert row["value"] == "-0.5"


@few
@given(st.lists(TEXTS, min_size=1, max_size=4))
def test_a_shell_sees_the_words(words):
    line = borders.shell(*words)
    assert "\n" not in line and not OBEYED.search(line)
    if not any(OBEYED.search(word) or "\n" in word for word in words) and all(map(str.isascii, words)):
        assert shlex.split(line) == words


@few
@given(TEXTS)
def test_a_label_is_a_name_and_no_path(text):
    assert re.fullmatch(r"[A-Za-z0-9_][A-Za-z0-9._-]{0,99}", borders.label(text))


@few
@given(TEXTS)
def test_a_script_element_is_not_ended(text):
    made = borders.script_json({text: [text]})
    assert "<" not in made and json.loads(made) == {text: [text]}


@pytest.mark.parametrize("word", ["a\n😀", "\U000e0041b", "\udcff\udc41"[:1] + "a", "'\n\\", "\x1b[31m\U0001f600"])
def test_a_shell_gets_the_words_back(word):
    """As bash reads them, bytes that are no text and letters beyond the first plane too."""
    made = subprocess.run(
        ["bash", "-c", f"printf %s {borders.shell(word)}"], capture_output=True, check=True, env={"LC_ALL": "C.UTF-8"}
    )
    assert os.fsdecode(made.stdout) == word


MADE_UP = "0123456789abcdefABCDEF" + "0123456789"


@pytest.mark.parametrize(
    "text",
    [
        f"https://user:{MADE_UP}@host/x",
        f"ghp_{MADE_UP}",
        f"hf_{MADE_UP} x",
        f"sk-{MADE_UP}",
        f"https://h/b?sv=1&sig={MADE_UP}%3D",
        f"AccountKey={MADE_UP}==;",
        f"eyJhbGciOiJI.eyJzdWIiOiIx.{MADE_UP}",
    ],
)
def test_a_failures_text_has_no_secret(text):
    shown = borders.without_secrets(f"cannot open {text}: no")
    assert MADE_UP not in shown and "***" in shown and shown.startswith("cannot open ")
    assert borders.without_secrets("s3://a/b: 12:30 a@b.c, task-1") == "s3://a/b: 12:30 a@b.c, task-1"


def test_pages_say_nothing_of_a_machines_folders():
    assert borders.without_folders("file:///home/ann/x.yaml") == "file://…/x.yaml"
    said = borders.without_folders("root: /home/ann/data/camvid, s3://a/b/c, and/or 1/2; /work/x.yaml")
    assert said == "root: …/camvid, s3://a/b/c, and/or 1/2; …/x.yaml"


@pytest.fixture(scope="module", autouse=True)
def imported():
    """What the commands import, before they are forked."""

    import harness.report.console
    import harness.report.write  # noqa: F401


COMMANDS = (
    ["results", "list", "r"],
    ["results", "show", "r", "kd-0"],
    ["tables", "r"],
    *(["tables", "r", "--format", form] for form in ("md", "csv", "html", "latex")),
)


@pytest.mark.parametrize("name", [n for n in NAMES if n.strip()], ids=ascii)
def test_names_in_rows(tmp_path, name):
    folder = tmp_path / "work"
    names = [f"{name}{k}" for k in range(6)]
    for row in (make_row("none", 0), make_row("none", 1), make_row("kd", 0), make_row("kd", 1)):
        store.write_run(folder / "r", row | {"pair": name, "experiment": name, "class_names": names, "dataset": name})
    failed = make_row("cwd", 0, "failed") | {"pair": name, "experiment": name, "message": name, "dataset": name}
    store.write_run(folder / "r", failed)
    command = COMMANDS[NAMES.index(name) % len(COMMANDS)]
    ended = hostile.run(command, folder)
    assert hostile.complaints(ended, [], codes=(0,)) == []
    assert not OBEYED.search(ended.text.replace("\t", ""))


PLACES = {
    "a key": lambda name: BASE + f"{json.dumps(name)}: 1\n",
    "an experiment": lambda name: BASE.replace("name: small", f"name: {json.dumps(name)}"),
    "a method": lambda name: BASE + f"  - {json.dumps(name)}: {{}}\n",
}


@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize("name", [n for n in NAMES if OBEYED.search(n)][:8], ids=ascii)
def test_names_in_experiment_files(tmp_path, name, place):
    folder = tmp_path / "work"
    folder.mkdir()
    (folder / "e.yaml").write_text(PLACES[place](name))
    ended = hostile.run(["check", "--no-measure", "e.yaml"], folder)
    assert hostile.complaints(ended, ["e.yaml"]) == []
    assert not OBEYED.search(ended.text)


@pytest.mark.parametrize("name", [n for n in NAMES if OBEYED.search(n) and "\0" not in n], ids=ascii)
def test_names_of_files_and_options(tmp_path, name):
    folder = tmp_path / "work"
    folder.mkdir()
    for arguments in (["check", f"{name}.yaml"], ["results", "list", name], ["check", f"--{name}"]):
        ended = hostile.run(arguments, folder)
        assert hostile.complaints(ended, []) == []
        assert not OBEYED.search(ended.text)


LOST = ("file:///a#b", "file:///a?b=c", "s3://bucket/a#b", "file://host/a", "gs://", "s3:///a", "file:a", "s3://b/../c")
SECRETS = [  # with spaces, so that nothing here looks like a password
    address.replace(" at ", "@")
    for address in (
        "s3://key:hidden at bucket/x",
        "s3://hidden at bucket/x",
        "https://a:hidden at b/c",
        "abfs://c:hidden at account/x",
        "s3://b/x?secret_key=hidden",
        "s3://b?session_token=hidden",
        "s3://b?Access_Key=hidden",
        "abfs://c at a/x?sig=hidden",
        "hdfs://user:hidden at name/x",
        "gs://b/x?password=hidden",
        "s3://b/x?aws%5Fsecret=hidden",
    )
]
WRONG = ("", "relative/folder", "ftp://a/b", "C:\\x", "s3:/b", "s3://b/a\nb", "file:///a\x1b[2J", "http://[::1")


@pytest.mark.parametrize("address", [*LOST, *SECRETS, *WRONG], ids=ascii)
def test_a_storage_that_loses_or_tells_something(tmp_path, address):
    folder = tmp_path / "work"
    folder.mkdir()
    (folder / "e.yaml").write_text(BASE + f"resources: {{storage: {json.dumps(address)}}}\n")
    ended = hostile.run(["check", "--no-measure", "e.yaml"], folder)
    assert hostile.complaints(ended, ["e.yaml", "storage"]) == []
    assert "hidden" not in ended.text


@pytest.mark.parametrize(
    "address",
    ["/a/b", "file:///a/b", "s3://bucket/a?endpoint_override=h%3A1&scheme=http", "gs://b/x", "abfs://c@a.net/x"],
)
def test_a_good_storage_is_left_as_it_is(address):
    assert require_storage(address) == address
