"""`sstkd-bench methods NAME`: what a method is, on a terminal of 80 columns, without importing torch."""

import subprocess
import sys

import pytest

from harness.experiment import signatures
from harness.experiment.explain import explain
from tests.support.commands import ROOT, call, refused

METHODS = signatures.table("harness.distillers", "METHODS")


def test_nothing_heavy_is_imported():
    code = (
        "import sys; from harness.cli.app import app\n"
        "try: app(['methods', 'sstkd'])\n"
        "except SystemExit as error: code = error.code\n"
        "print(code, sorted({'torch', 'numpy', 'ray', 'pyarrow', 'harness.distillers'} & set(sys.modules)), "
        "file=sys.stderr)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT)
    assert done.stdout.startswith("sstkd\n") and done.stderr.strip() == "0 []"


@pytest.mark.parametrize("name", METHODS)
def test_every_method_is_explained_in_80_columns(name):
    lines = call("methods", name).stdout.splitlines()
    assert lines[0] == name and max(map(len, lines)) <= 80
    assert lines.index("Parameters") < lines.index("Source")
    entry = METHODS[name]
    table = lines[lines.index("Parameters") + 1 : lines.index("Source")]
    starts = [line.split() for line in table if line.startswith("  ") and line[2] != " "]
    rows = {words[0]: words for words in starts}
    assert rows.keys() >= set(entry.parameters.model_fields)
    for parameter in entry.parameters.model_fields:
        assert " ".join(table).count(f"  {parameter} ") >= 1
        if parameter in entry.constants.get("space", {}):
            low, high = entry.constants["space"][parameter]
            assert f"{low:g} to {high:g}" in " ".join(rows[parameter])
    joined = " ".join(" ".join(lines).split())
    assert " ".join(entry.constants.get("caveat", "").split()) in joined
    assert "L =" in joined


def test_the_words_are_the_sources():
    text = call("methods", "cwd").stdout
    assert "    L = w tau^2 / (N C) * sum_{n,c} sum_positions p_T log(p_T / p_S),\n        p = softmax" in text
    assert "  tau         4.0        1 to 8     number; temperature of both terms\n" in text
    assert "canonical, cirkd or mmseg; the source of the" in text
    assert "  Paper: Shu, Liu, Gao, Yan, Shen" in text and "  Authors' code: irfanICMLL/TorchDistiller" in text
    assert "V verified in the source itself" in " ".join(call("methods", "sstkd").stdout.split())


def test_a_method_of_your_own_is_read_and_not_imported(tmp_path, monkeypatch):
    (tmp_path / "own_method.py").write_text(
        'raise SystemExit("imported")\n'
        "class Own:\n"
        '    """Mean difference.\n\n    Args:\n        pair: both.\n        share: how\n            much.\n    """\n'
        "    limits = {'count': (1, 8)}\n"
        "    def __init__(self, pair, *, share: float, count: int = 2, several: tuple[int, ...] | None = None): ...\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    assert explain("own_method:Own") == (
        "own_method:Own\n\nMean difference.\n\nParameters\n"
        "  name     default   search  allowed values; meaning\n"
        "  share    required  -       number; how much\n"
        "  count    2         -       whole number, 1 to 8\n"
        "  several  null      -       list of whole numbers or null\n\nSource\n  none"
    )


def test_wrong_names():
    assert "unknown method 'hinton'. Did you mean 'kd'?" in refused("methods", "hinton")
    assert "own_methods" in refused("methods", "own_methods:Own")
