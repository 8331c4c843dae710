"""A network as a graph: a program of `torch.export`, or a model of ONNX made from it."""

import io
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from harness.borders import one_line
from harness.datasets import DataInfo
from harness.deployment.deployed import Deployed, Runner, on_multiples, quiet
from harness.deployment.source import LARGEST_BATCH, LARGEST_SIDE, Form, Source
from harness.files import write_atomic
from harness.training.normalize import normalised_images

PROGRAM, ONNX = "model.pt2", "model.onnx"
OPSET = 20
INPUT, SCORES, LABELS = "image", "scores", "labels"
Graph = Callable[[Tensor], Tensor]
"""A graph by its runtime: what it takes to what it gives, as `Form` says."""
ROUNDING, LEAST_SAME = 1e-3, 0.99
"""By how much class scores may differ, relative to the largest; the least share of equal labels."""


def program_of(source: Source, form: Form) -> Any:
    """The network as an exported program.

    Raises:
        ValueError: it cannot be exported in this form; names the line of the network at which it fails, and the remedy.
    """
    sizes, dimensions = _shape(form, source)
    try:
        with torch.no_grad(), quiet():
            deployed = Deployed(source.network, source.info, form.preprocessing).eval()
            image = torch.zeros(sizes, dtype=torch.uint8 if form.preprocessing else torch.float32)
            program = torch.export.export(deployed, (image,), dynamic_shapes=(dimensions,))
            program.graph_module.graph.eliminate_dead_code()  # stages that the decoder does not read
            for node in program.graph_module.graph.nodes:
                node.meta.pop("stack_trace", None)  # paths of this machine
            program.graph_module.recompile()
            program.example_inputs = None  # which would be written too
            return program
    except Exception as error:  # torch raises its own kinds for what a graph cannot hold
        raise ValueError(failed("torch.export", source, form, error)) from error


def write_program(source: Source, form: Form, folder: Path) -> None:
    """The program, as `torch.export.load` reads it.

    Raises:
        ValueError: the network cannot be exported in this form, or the program cannot be written.
    """
    program, content = program_of(source, form), io.BytesIO()
    try:
        with quiet():
            torch.export.save(program, content)
    except Exception as error:
        raise ValueError(failed("torch.export.save", source, form, error)) from error
    write_atomic(folder / PROGRAM, content.getvalue())


def load_program(folder: Path, threads: int) -> Graph:
    """What torch makes of the program; torch's own number of threads holds."""
    with quiet():
        module: nn.Module = torch.export.load(folder / PROGRAM).module()

    @torch.no_grad()
    def run(image: Tensor) -> Tensor:
        found: Tensor = module(image)
        return found

    return run


def write_onnx(source: Source, form: Form, folder: Path) -> None:
    """The model, with its weights inside; checked by onnx.

    Raises:
        ValueError: it cannot be exported in this form.
    """
    import onnx

    program = program_of(source, form)
    output = LABELS if form.preprocessing else SCORES
    try:
        with torch.no_grad(), quiet():
            made = torch.onnx.export(
                program, dynamo=True, opset_version=OPSET, input_names=[INPUT], output_names=[output], verbose=False
            )
        assert made is not None
        model = made.model_proto
        for node in (*model.graph.node, *(node for each in model.functions for node in each.node)):
            node.ClearField("metadata_props")  # paths of this machine
            node.ClearField("doc_string")
        model.graph.ClearField("metadata_props")  # sets in any order
        onnx.checker.check_model(model, full_check=True)
    except Exception as error:  # torch, onnxscript and onnx each raise their own
        raise ValueError(failed("torch.onnx", source, form, error)) from error
    described_in(model, source)
    write_atomic(folder / ONNX, model.SerializeToString(deterministic=True))


def described_in(model: Any, source: Source) -> None:
    """Put what has to be known of the network into a model's own metadata, JSON by key."""
    import onnx

    onnx.helper.set_model_props(model, {key: json.dumps(value) for key, value in source.described().items()})


def load_onnx(folder: Path, threads: int) -> Graph:
    """What onnxruntime makes of the model, on the CPU."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads, options.inter_op_num_threads, options.log_severity_level = threads, 1, 4
    session = onnxruntime.InferenceSession(str(folder / ONNX), options, providers=["CPUExecutionProvider"])
    name = session.get_inputs()[0].name

    def run(image: Tensor) -> Tensor:
        return torch.from_numpy(session.run(None, {name: image.numpy()})[0])

    return run


def _shape(form: Form, source: Source) -> tuple[tuple[int, ...], dict[int, Any]]:
    """Sizes of an example, and which of them may change."""
    batch = form.batch or 2
    multiple, least = source.network.multiple, source.smallest_side
    height, width = form.size_hw or (least + multiple, least + 2 * multiple)
    free: dict[str, Any] = {}
    if form.batch is None:
        free["batch"] = torch.export.Dim("batch", min=1, max=LARGEST_BATCH)
    if form.size_hw is None:
        for name in ("height", "width"):
            free[name] = torch.export.Dim.DYNAMIC if multiple == 1 else multiple * _steps(name, multiple, least)
    if form.preprocessing:
        sizes, names = (batch, height, width, 3), ("batch", "height", "width", "")
    else:
        sizes, names = (batch, 3, height, width), ("batch", "", "height", "width")
    return sizes, {axis: free[name] for axis, name in enumerate(names) if name in free}


def _steps(name: str, multiple: int, least: int) -> Any:
    """How often a side holds the multiple."""
    fewest = least // multiple
    return torch.export.Dim(f"{name}_{multiple}", min=fewest, max=max(fewest + 1, LARGEST_SIDE // multiple))


def given_to(graph: Graph, source: Source, form: Form) -> Runner:
    """A graph as a function of normalised images, however many and, if it takes any size, of any size."""
    info = source.info

    def run(image: Tensor) -> Tensor:
        height, width = image.shape[-2:]
        if form.size_hw is None and min(height, width) < source.smallest_side:
            raise ValueError(
                f"--size dynamic: a graph of any size takes sides from {source.smallest_side}, and there are images of "
                f"{height}x{width} pixels. Give the size that the device uses: --size {height}x{width}"
            )
        image = as_bytes(image, info) if form.preprocessing else image.contiguous()
        pieces = torch.split(image, form.batch or LARGEST_BATCH)
        found = torch.cat([_padded(graph, piece, form.batch) for piece in pieces])
        return one_hot(found, info.num_classes) if form.preprocessing else found

    return run if form.size_hw is not None else on_multiples(run, source.network.multiple)


def one_hot(labels: Tensor, classes: int) -> Tensor:
    """Labels (N, H, W) as scores (N, K, H, W), 1 for the label's class."""
    return F.one_hot(labels.long(), classes).permute(0, 3, 1, 2).float()


def as_labels(scores: Tensor) -> Tensor:
    """Scores (N, K, H, W) as those of their labels."""
    return one_hot(scores.argmax(1), scores.shape[1])


def require_free(graph: Graph, source: Source, form: Form, what: str) -> None:
    """Check a graph on random images, in sizes and numbers that it was not made with where it takes any.

    Exporters and runtimes may keep a size of the example without a word.

    Raises:
        ValueError: it fails, or gives something else than the network.
    """
    run, many = given_to(graph, source, form), source.network.multiple
    least = source.smallest_side
    free = [(least + rows * many, least + columns * many) for rows, columns in ((1, 2), (3, 0), (0, 4))]
    for count, size in enumerate([form.size_hw] if form.size_hw else free, start=1):
        image = torch.randn(form.batch or count, 3, *size, generator=torch.Generator().manual_seed(count))
        try:
            found = run(image)
        except Exception as error:  # each runtime raises its own
            raise ValueError(failed(f"{what} on images of {size[0]}x{size[1]}", source, form, error)) from error
        if form.preprocessing:  # of values that bytes can have
            image = normalised_images(as_bytes(image, source.info), source.info, torch.contiguous_format)
        with torch.no_grad():
            wanted = source.network(image).full
        if form.preprocessing:
            same = float((found.argmax(1) == wanted.argmax(1)).float().mean()) > LEAST_SAME
        else:
            same = float((found - wanted).abs().max()) <= ROUNDING * (1 + float(wanted.abs().max()))
        if not same:
            other = ArithmeticError(f"{size[0]}x{size[1]} pixels give other scores than the network's")
            raise ValueError(failed(what, source, form, other))


def _padded(graph: Graph, images: Tensor, batch: int | None) -> Tensor:
    """The results for images, which are fewer than a batch at the end of a split."""
    missing = (batch or len(images)) - len(images)
    whole = torch.cat([images, images[-1:].expand(missing, *images.shape[1:])]) if missing else images
    return graph(whole)[: len(images)]


def as_bytes(image: Tensor, info: DataInfo) -> Tensor:
    """The RGB bytes (N, H, W, 3) that normalised images were made from."""
    image = image.flip(1) if info.bgr else image
    mean, std = (torch.tensor(values).view(1, 3, 1, 1) for values in (info.mean, info.std))
    return (image * std + mean).round().clamp(0, 255).to(torch.uint8).permute(0, 2, 3, 1).contiguous()


def failed(what: str, source: Source, form: Form, error: Exception) -> str:
    """The message of what cannot be exported: which network, where, and what else there is."""
    place = ""
    tail = error.__traceback__
    while tail is not None:
        file = tail.tb_frame.f_code.co_filename
        if f"{os.sep}torch{os.sep}" not in file and f"{os.sep}harness{os.sep}deployment" not in file:
            place = f" at {Path(file).name}:{tail.tb_lineno} ({tail.tb_frame.f_code.co_name})"
        tail = tail.tb_next
    remedies = []
    if form.size_hw is None:
        remedies.append("give the size that the device uses: --size 512x1024")
    if form.batch is None:
        remedies.append("--batch 1")
    remedies.append("another --to (safetensors takes every network)")
    network = source.run.network
    return (
        f"{what} fails on {network.architecture}{f' with {network.encoder}' if network.encoder else ''}{place}: "
        f"{type(error).__name__}: {one_line(error, 300)}. Try: {', or '.join(remedies)}"
    )
