"""The table of docs/export.md is what comes out; some of its cells here, all of them in the soak."""

import re
from pathlib import Path

import pytest

from tests.support import exported

PAGE = (Path(__file__).parents[2] / "docs" / "export.md").read_text()
SOME = (("unet", "resnet18"), ("pspnet", "resnet18"), ("lraspp", "mobilenet_v3_large"), ("segformer", "mit_b0"))


def cell_of_page(architecture: str, encoder: str) -> str:
    """Of the first tables; the second ones have the same lines for OpenVINO and ExecuTorch."""
    if (architecture, encoder) in exported.OTHERS:
        found, _ = re.findall(rf"^\| `{architecture}`, `{encoder}` \| ([^|]*) \|$", PAGE, re.MULTILINE)
        return found
    line, _ = re.findall(rf"^\| `{architecture}` \| (.*) \|$", PAGE, re.MULTILINE)
    return line.split(" | ")[exported.ENCODERS.index(encoder)]


@pytest.mark.torch
@pytest.mark.slow
@pytest.mark.parametrize("pair", SOME, ids=str)
def test_some_cells(pair: tuple[str, str], tmp_path: Path) -> None:
    assert exported.said(exported.cell(*pair, tmp_path)) == cell_of_page(*pair)


@pytest.mark.torch
@pytest.mark.soak
def test_the_whole_table(tmp_path: Path) -> None:
    lines = list(exported.table(tmp_path))
    assert "\n".join(lines) in PAGE
