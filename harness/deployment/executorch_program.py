"""A network as a program of ExecuTorch for phones and boards, lowered to XNNPACK, and its int8 form."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from harness.deployment.calibration import inputs, outermost
from harness.deployment.deployed import quiet
from harness.deployment.graphs import Graph, failed, program_of
from harness.deployment.source import Form, Source
from harness.files import write_atomic

PROGRAM = "model.pte"
LAYERS = ("aten.conv2d.default", "aten.conv_transpose2d.input", "aten.linear.default", "aten.matmul.default")
SIZES = ("aten.sym_size", "aten.size")


def write_executorch(source: Source, form: Form, folder: Path) -> None:
    """The program, with float32 weights.

    Raises:
        ValueError: it is to take any size or number of images, or the network cannot be exported.
    """
    if form.size_hw is None or form.batch is None:
        raise ValueError(
            "--to executorch: a program reserves the memory of its largest input, so that it needs one size and "
            "number of images: give --size, e.g. 512x1024, and --batch 1"
        )
    _lower(program_of(source, form), source, form, folder)


def _lower(program: Any, source: Source, form: Form, folder: Path) -> None:
    try:
        with quiet():
            from executorch.backends.xnnpack.partition.xnnpack_partitioner import XnnpackPartitioner
            from executorch.exir import to_edge_transform_and_lower

            made = to_edge_transform_and_lower(program, partitioner=[XnnpackPartitioner()]).to_executorch()
    except Exception as error:  # of many kinds
        raise ValueError(failed("executorch", source, form, error)) from error
    write_atomic(folder / PROGRAM, made.buffer)


def load_executorch(folder: Path, threads: int) -> Graph:
    """What ExecuTorch's runtime for Python makes of the program."""
    with quiet(), _without_log():
        from executorch.extension.pybindings import portable_lib
        from executorch.runtime import Runtime, Verification

        portable_lib._unsafe_reset_threadpool(threads)
        program = Runtime.get().load_program(folder / PROGRAM, verification=Verification.InternalConsistency)
        method = program.load_method("forward")
    assert method is not None

    def run(image: Tensor) -> Tensor:
        found: Tensor = method.execute([image])[0]
        return found.clone()  # the program's own memory, which the next call overwrites

    return run


@contextmanager
def _without_log() -> Iterator[None]:
    """Without the lines that the runtime writes to standard error below Python; its errors are exceptions."""
    kept, nowhere = os.dup(2), os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, 2)
    try:
        yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)
        os.close(nowhere)


def quantise_executorch(source: Source, form: Form, folder: Path) -> None:
    """Replace the program by one with int8 weights, per channel, and int8 maps.

    The first and the last layers stay unless told otherwise.

    Raises:
        ValueError: there is no layer between the first and the last, or the network cannot be quantised.
    """
    module = program_of(source, form).module()
    kept = set() if form.every_layer else _kept(module.graph)
    try:
        with quiet(), torch.no_grad():
            from executorch.backends.xnnpack.quantizer.xnnpack_quantizer import (
                XNNPACKQuantizer,
                get_symmetric_quantization_config,
            )
            from torchao.quantization.pt2e.quantize_pt2e import convert_pt2e, prepare_pt2e

            quantizer = XNNPACKQuantizer().set_global(get_symmetric_quantization_config(is_per_channel=True))
            quantizer.set_filter_function(lambda node: node.name not in kept)
            prepared = prepare_pt2e(module, quantizer)
            images = list(inputs(source, form))
            for image in images:
                prepared(image)
            program = torch.export.export(convert_pt2e(prepared), (images[0],))
            program.example_inputs = None
    except Exception as error:
        raise ValueError(failed("executorch in int8", source, form, error)) from error
    _lower(program, source, form, folder)


def _kept(graph: torch.fx.Graph) -> set[str]:
    """Names of the outermost layers."""
    nodes = [node for node in graph.nodes if not str(node.target).startswith(SIZES)]
    after = {node.name: [user.name for user in node.users] for node in nodes}
    before = {node.name: [each.name for each in node.all_input_nodes] for node in nodes}
    layers = {node.name for node in graph.nodes if str(node.target) in LAYERS}
    first = [node.name for node in graph.nodes if node.op == "placeholder"]
    return outermost(layers, first, [node.name for node in graph.nodes if node.op == "output"], after, before)
