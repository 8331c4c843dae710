"""A network as OpenVINO's own files, made from the ONNX model, and their int8 form by NNCF."""

import json
import os
import sys
import tempfile
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from harness.deployment.calibration import inputs, outermost
from harness.deployment.deployed import quiet
from harness.deployment.graphs import ONNX, Graph, write_onnx
from harness.deployment.source import Form, Source

MODEL = "model.xml"
"""The graph; its weights lie in the `.bin` beside it."""
LAYERS = ("Convolution", "GroupConvolution", "ConvolutionBackpropData", "MatMul")
SIZES = ("ShapeOf",)


def silent() -> None:
    """Keep OpenVINO and NNCF, which report each import to their makers unless told otherwise, from doing so."""
    sys.modules.setdefault("openvino_telemetry", None)  # type: ignore[arg-type]  # as if it were not installed


def write_openvino(source: Source, form: Form, folder: Path) -> None:
    """The model in float32 with its description.

    Raises:
        ValueError: the network cannot be exported in this form.
    """
    silent()
    import openvino

    with tempfile.TemporaryDirectory(dir=folder, prefix=".onnx.") as own:
        write_onnx(source, form, Path(own))
        _save(openvino.Core().read_model(Path(own) / ONNX), source, folder)


def _save(model: Any, source: Source, folder: Path) -> None:
    """Write both files beside those there, whose weights the model may still read, and put them in place."""
    import openvino

    model.set_rt_info(json.dumps(source.described()), ["sstkd-bench"])
    with tempfile.TemporaryDirectory(dir=folder, prefix=".openvino.") as own:
        openvino.save_model(model, Path(own) / MODEL, compress_to_fp16=False)
        for path in Path(own).iterdir():
            os.replace(path, folder / path.name)


def load_openvino(folder: Path, threads: int) -> Graph:
    """What OpenVINO makes of the model on the CPU, computing in float32 as the network does.

    Without being told so it computes in bfloat16 on processors that can.
    """
    silent()
    import openvino

    given = {"INFERENCE_NUM_THREADS": threads, "INFERENCE_PRECISION_HINT": "f32", "NUM_STREAMS": 1}
    compiled = openvino.Core().compile_model(folder / MODEL, "CPU", given)

    def run(image: Tensor) -> Tensor:
        return torch.from_numpy(compiled(image.numpy())[0])

    return run


def quantise_openvino(source: Source, form: Form, folder: Path) -> None:
    """Replace the model by one with int8 weights, per channel, and int8 maps.

    The first and the last layers stay unless told otherwise.

    Raises:
        ValueError: there is no layer between the first and the last.
    """
    silent()
    import nncf
    import openvino

    model = openvino.Core().read_model(folder / MODEL)
    stay = [] if form.every_layer else sorted(_kept(model))
    images = [image.numpy() for image in inputs(source, form)]
    with quiet():
        small = nncf.quantize(
            model,
            nncf.Dataset(images),
            preset=nncf.QuantizationPreset.MIXED,
            subset_size=len(images),
            ignored_scope=nncf.IgnoredScope(names=stay),
        )
    _save(small, source, folder)


def _kept(model: Any) -> set[str]:
    """Names of the outermost layers."""
    ops = [op for op in model.get_ordered_ops() if op.get_type_name() not in SIZES]
    before = {
        op.friendly_name: [op.input_value(place).get_node().friendly_name for place in range(op.get_input_size())]
        for op in ops
    }
    after: dict[str, list[str]] = {}
    for name, makers in before.items():
        for maker in makers:
            after.setdefault(maker, []).append(name)
    layers = {op.friendly_name for op in ops if op.get_type_name() in LAYERS}
    first = [op.friendly_name for op in model.get_parameters()]
    return outermost(layers, first, [op.friendly_name for op in model.get_results()], after, before)
