"""A small experiment file that tests of the spec change line by line."""

from harness.experiment import load as specfile

BASE = """\
name: small
data: {name: texmosaic, parameters: {size: 64}}
pairs:
  - name: one
    teacher: {architecture: fpn, encoder: resnet34}
    student:
      architecture: fpn
      encoder: resnet18
train:
  steps: 4
  batch_size: 6
seeds: [0, 1]
methods:
  - none
  - kd: {weight: 2}
controls: false
"""


def load(tmp_path, text=BASE, *overrides):
    path = tmp_path / "e.yaml"
    path.write_text(text)
    return specfile.load(path, overrides)
