"""Post-training quantisation of an ONNX model to int8, by onnxruntime."""

import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F

from harness.deployment.deployed import padded, quiet
from harness.deployment.graphs import INPUT, ONNX, as_bytes, described_in
from harness.deployment.source import Form, Source
from harness.files import write_atomic
from harness.training.batches import to_batch

LAYERS = ("Conv", "Gemm", "MatMul")


def quantise_onnx(source: Source, form: Form, folder: Path) -> None:
    """Replace the model by one with int8 weights, per channel, and uint8 maps; the first and the last layers stay.

    The ranges of the maps are their least and greatest values on train images, evenly spaced over the split.

    Raises:
        ValueError: there is no layer between the first and the last.
    """
    import onnx
    from onnxruntime.quantization import QuantFormat, QuantType, quantize_static  # type: ignore[import-untyped]
    from onnxruntime.quantization.shape_inference import quant_pre_process  # type: ignore[import-untyped]

    with tempfile.TemporaryDirectory(dir=folder, prefix=".int8.") as own, quiet():
        whole, small = Path(own) / "whole.onnx", Path(own) / ONNX
        quant_pre_process(str(folder / ONNX), str(whole), skip_symbolic_shape=True)  # folds batch normalisation
        graph = onnx.load(whole).graph
        layers, outermost = {node.name for node in graph.node if node.op_type in LAYERS}, _outermost(graph)
        if not layers - outermost:
            raise ValueError("--int8: the network has no layer between its first and its last, which stay as they are")
        quantize_static(
            str(whole),
            str(small),
            _Images(source, form),
            quant_format=QuantFormat.QDQ,
            per_channel=True,
            weight_type=QuantType.QInt8,
            activation_type=QuantType.QUInt8,
            nodes_to_exclude=sorted(outermost),
        )
        made = onnx.load(small)
    described_in(made, source)
    write_atomic(folder / ONNX, made.SerializeToString(deterministic=True))


def _outermost(graph: Any) -> set[str]:
    """Names of the layers that no other layer comes before, and of those that none comes after."""
    makers = {name: node for node in graph.node for name in node.output}
    users: dict[str, list[Any]] = {}
    for node in graph.node:
        for name in node.input:
            users.setdefault(name, []).append(node)
    after = _reached([node for each in graph.input for node in users.get(each.name, [])], users, "output")
    before = _reached(
        [makers[each.name] for each in graph.output], {name: [node] for name, node in makers.items()}, "input"
    )
    return after | before


def _reached(start: list[Any], edges: dict[str, list[Any]], side: str) -> set[str]:
    """Names of the first layers on every way from some nodes."""
    found: set[str] = set()
    seen: set[str] = set()
    while start:
        node = start.pop()
        if node.name in seen:
            continue
        seen.add(node.name)
        if node.op_type in LAYERS:
            found.add(node.name)
        else:
            start += [each for name in getattr(node, side) for each in edges.get(name, [])]
    return found


class _Images:
    """Images of train, as onnxruntime's calibration asks for them."""

    def __init__(self, source: Source, form: Form) -> None:
        self._inputs = inputs(source, form)

    def get_next(self) -> dict[str, Any] | None:
        """The next input; None after the last."""
        return next(self._inputs, None)


def inputs(source: Source, form: Form) -> Iterator[dict[str, Any]]:
    """What a graph is given for its calibration: train images, for a graph of one size cut or padded to it."""
    assert form.calibration is not None
    train = source.data.train
    for place in range(form.calibration):
        pixels = torch.from_numpy(train[place * len(train) // form.calibration][0].copy())[None]
        image = to_batch(pixels, pixels[..., 0], source.info, torch.device("cpu")).image
        if form.size_hw is None:
            image = padded(image, source.network.multiple)
        else:
            height, width = form.size_hw
            image = image[..., :height, :width]
            missing = (0, width - image.shape[-1], 0, height - image.shape[-2])
            image = F.pad(image, missing, mode="replicate") if any(missing) else image
        image = image.expand(form.batch or 1, *image.shape[1:]).contiguous()
        yield {INPUT: (as_bytes(image, source.info) if form.preprocessing else image).numpy()}
