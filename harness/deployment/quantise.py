"""Post-training quantisation of an ONNX model to int8, by onnxruntime."""

import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from torch import Tensor

from harness.deployment.calibration import inputs, outermost
from harness.deployment.deployed import quiet
from harness.deployment.graphs import INPUT, ONNX, described_in
from harness.deployment.source import Form, Source
from harness.files import write_atomic

LAYERS = ("Conv", "ConvTranspose", "Gemm", "MatMul")
SIZES = ("Shape", "Size")


def quantise_onnx(source: Source, form: Form, folder: Path) -> None:
    """Replace the model by one with int8 weights, per channel, and uint8 maps.

    The first and the last layers stay unless told otherwise.

    The ranges of the maps are their least and greatest values on train images.

    Raises:
        ValueError: there is no layer between the first and the last.
    """
    import onnx
    from onnxruntime.quantization import QuantFormat, QuantType, quantize_static
    from onnxruntime.quantization.shape_inference import quant_pre_process

    with tempfile.TemporaryDirectory(dir=folder, prefix=".int8.") as own, quiet():
        whole, small = Path(own) / "whole.onnx", Path(own) / ONNX
        quant_pre_process(str(folder / ONNX), str(whole), skip_symbolic_shape=True)  # folds batch normalisation
        quantize_static(
            str(whole),
            str(small),
            _Images(inputs(source, form)),
            quant_format=QuantFormat.QDQ,
            per_channel=True,
            weight_type=QuantType.QInt8,
            activation_type=QuantType.QUInt8,
            nodes_to_exclude=[] if form.every_layer else sorted(_kept(onnx.load(whole).graph)),
        )
        made = onnx.load(small)
    described_in(made, source)
    write_atomic(folder / ONNX, made.SerializeToString(deterministic=True))


def _kept(graph: Any) -> set[str]:
    """Names of the outermost layers."""
    nodes = [node for node in graph.node if node.op_type not in SIZES]
    makers = {name: node.name for node in nodes for name in node.output}
    after: dict[str, list[str]] = {}
    for node in nodes:
        for name in node.input:
            after.setdefault(makers.get(name, ""), []).append(node.name)
    readers = {each.name: [node.name for node in nodes if each.name in node.input] for each in graph.input}
    before = {node.name: [makers[name] for name in node.input if name in makers] for node in nodes}
    layers = {node.name for node in nodes if node.op_type in LAYERS}
    first = [name for names in readers.values() for name in names]
    return outermost(layers, first, [makers[each.name] for each in graph.output], after, before)


class _Images:
    """Images of train, as onnxruntime's calibration asks for them."""

    def __init__(self, images: Iterator[Tensor]) -> None:
        self._images = images

    def get_next(self) -> dict[str, Any] | None:
        """The next input; None after the last."""
        image = next(self._images, None)
        return None if image is None else {INPUT: image.numpy()}
