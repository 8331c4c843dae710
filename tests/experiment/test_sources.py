"""Which files are the source of a module from outside: those that Python would import, wherever they lie."""

import sys
from pathlib import Path

import pytest

from harness.experiment.sources import outside_files

FILES = {
    "a/mynet.py": "import os, json, numpy\nimport blocks, data\nfrom pack.sub import layers\nimport plain.folder",
    "a/data.py": "",
    "a/data/make.py": "",  # a folder of data beside the module data
    "a/pack/__init__.py": "from .inner import x",
    "a/pack/inner.py": "",
    "a/pack/sub/layers.py": "def f():\n    import late",
    "a/pack/.ipynb_checkpoints/inner-checkpoint.py": "",
    "a/plain/folder.py": "",
    "a/unused.py": "",
    "b/blocks.py": "import deeper.still",
    "b/deeper/still.py": "",
    "b/late.py": "import json",
    "b/json.py": "",
    "c/site-packages/numpy/__init__.py": "",
}


def test_all_that_is_imported_and_not_installed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, text in FILES.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    for folder in ("c/site-packages", "b", "a"):
        monkeypatch.syspath_prepend(tmp_path / folder)
    pack = {"pack/__init__.py", "pack/inner.py", "pack/sub/layers.py"}
    found = outside_files("mynet")
    others = {"mynet.py", "data.py", "plain/folder.py", "blocks.py", "deeper/still.py", "late.py"}
    assert found.keys() == pack | others
    assert found["late.py"] == tmp_path / "b" / "late.py"
    assert outside_files("pack.sub.layers").keys() == pack | {"late.py"}
    assert outside_files("plain.folder").keys() == {"plain/folder.py"}
    assert not {"numpy", "mynet", "blocks"} & sys.modules.keys() - {"numpy"}, "nothing is imported"
