"""Post-training quantisation of an ONNX model to int8, by onnxruntime."""

import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch

from harness.datasets import Data
from harness.deployment.deployed import padded, quiet
from harness.deployment.graphs import INPUT, ONNX, as_bytes, described_in
from harness.deployment.source import Form, Source
from harness.files import write_atomic
from harness.training.batches import to_batch

LAYERS = ("Conv", "Gemm", "MatMul")


def quantise_onnx(source: Source, data: Data, form: Form, folder: Path) -> None:
    """Replace the model by one with int8 weights, per channel, and uint8 maps; the first and the last layer stay.

    The ranges of the maps are their least and greatest values on train images, evenly spaced over the split.

    Raises:
        ValueError: there is no layer between the first and the last.
    """
    import onnx
    from onnxruntime.quantization import QuantFormat, QuantType, quantize_static  # type: ignore[import-untyped]
    from onnxruntime.quantization.shape_inference import quant_pre_process  # type: ignore[import-untyped]

    model = onnx.load(folder / ONNX)
    layers = [node.name for node in model.graph.node if node.op_type in LAYERS]
    if len(layers) < 3:
        raise ValueError("--int8: the network has no layer between its first and its last, which stay as they are")
    with tempfile.TemporaryDirectory(dir=folder, prefix=".int8.") as own, quiet():
        whole, small = Path(own) / "whole.onnx", Path(own) / ONNX
        quant_pre_process(str(folder / ONNX), str(whole), skip_symbolic_shape=True)  # folds batch normalisation
        layers = [node.name for node in onnx.load(whole).graph.node if node.op_type in LAYERS]
        quantize_static(
            str(whole),
            str(small),
            _Images(source, data, form),
            quant_format=QuantFormat.QDQ,
            per_channel=True,
            weight_type=QuantType.QInt8,
            activation_type=QuantType.QUInt8,
            nodes_to_exclude=[layers[0], layers[-1]],
        )
        made = onnx.load(small)
    described_in(made, source)
    write_atomic(folder / ONNX, made.SerializeToString(deterministic=True))


class _Images:
    """Images of train, as onnxruntime's calibration asks for them."""

    def __init__(self, source: Source, data: Data, form: Form) -> None:
        self._inputs = _inputs(source, data, form)

    def get_next(self) -> dict[str, Any] | None:
        """The next input; None after the last."""
        return next(self._inputs, None)


def _inputs(source: Source, data: Data, form: Form) -> Iterator[dict[str, Any]]:
    assert form.calibration is not None
    count = min(form.calibration, len(data.train))
    for place in range(count):
        pixels = torch.from_numpy(data.train[place * len(data.train) // count][0].copy())[None]
        image = to_batch(pixels, pixels[..., 0], source.info, torch.device("cpu")).image
        if form.size_hw is not None:
            image = torch.nn.functional.interpolate(image, form.size_hw, mode="bilinear", antialias=True)
        else:
            image = padded(image, source.network.multiple)
        image = image.expand(form.batch or 1, *image.shape[1:]).contiguous()
        yield {INPUT: (as_bytes(image, source.info) if form.preprocessing else image).numpy()}
