"""Weights that a Python package carries."""

from pathlib import Path

import pytest
import torch

from harness.experiment.weights import Origin
from harness.models import build, load_weights
from tests.support.published import experiment, ids, pickled, random_state, student


def installed(
    folder: Path, monkeypatch: pytest.MonkeyPatch, files: dict[str, bytes], licence: str = "Apache-2.0"
) -> None:
    """A package in a folder of the import path, as pip leaves it."""
    info = folder / "my_weights-1.2.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: my-weights\nVersion: 1.2\nLicense: {licence}\n")
    for name, content in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(content)
    (info / "RECORD").write_text("".join(f"{name},,\n" for name in [*files, "my_weights-1.2.dist-info/METADATA"]))
    monkeypatch.syspath_prepend(str(folder))


PACKAGE = "pairs.0.student.encoder_weights={package: my-weights}"


def test_a_package_carries_weights(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    sent = pickled(random_state(4))
    files = {"my_weights/__init__.py": b"raise SystemExit('imported')", "my_weights/models/small.pth": sent}
    installed(tmp_path / "site", monkeypatch, files)
    found = experiment(tmp_path, PACKAGE)
    weights = student(found)
    assert weights.source == Origin(
        kind="package", name="my-weights", revision="1.2", file="my_weights/models/small.pth", licence="Apache-2.0"
    )
    by_path = experiment(tmp_path, f"pairs.0.student.encoder_weights={{path: {weights.path}}}")
    assert ids(found) == ids(by_path)
    own = build(found.pairs[0].student, 5, 0).loaded_encoder().state_dict()
    assert torch.equal(own["model.conv_stem.weight"], random_state(4)["conv_stem.weight"])
    elsewhere = weights.model_copy(update={"path": "/on/the/head/small.pth"})
    assert load_weights(elsewhere).keys() == random_state(4).keys()


@pytest.mark.parametrize(
    ("files", "said"),
    [
        ({"my_weights/__init__.py": b""}, "carries one weight file .*; found none"),
        (
            {"my_weights/a.pth": b"", "my_weights/b.safetensors": b""},
            r"carries one weight file .*; found 2 \(my_weights/a.pth, my_weights/b.safe",
        ),
    ],
)
def test_a_package_without_the_one_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, files: dict[str, bytes], said: str
) -> None:
    installed(tmp_path / "site", monkeypatch, files)
    with pytest.raises(ValueError, match=rf"pairs.0.student.encoder_weights: the package my-weights 1.2 {said}"):
        experiment(tmp_path, PACKAGE)
