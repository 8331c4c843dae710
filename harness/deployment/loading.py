"""How an exported file is loaded, without this project where the file's library does not need it: code for the card."""

from collections.abc import Iterable, Mapping
from typing import Any

from harness.deployment import executorch_program, openvino_model
from harness.deployment.graphs import ONNX, PROGRAM
from harness.deployment.source import Source
from harness.deployment.weight_files import WEIGHTS
from harness.models.described import SMP
from harness.models.vit import any_size

TORCHVISION = {"lraspp": "lraspp", "deeplabv3-torchvision": "deeplabv3", "fcn-torchvision": "fcn"}
"""How the names of torchvision's functions begin, by architecture; the encoder follows."""


def takes(source: Source, exported: Mapping[str, Any]) -> str:
    """What the file takes and gives, in words."""
    info, size, batch = source.info, exported["size_hw"], exported["batch"]
    order = "blue, green, red" if info.bgr else "red, green, blue"
    texts = [
        f"Channels: {order}. Mean {_numbers(info.mean)} and standard deviation {_numbers(info.std)} of red, green and "
        "blue, in values of 0 to 255."
    ]
    if exported["preprocessing"]:
        texts.append("The graph normalises by itself: it takes RGB bytes (N, H, W, 3) and gives labels (N, H, W).")
    else:
        texts.append("It takes normalised float32 images (N, 3, H, W) and gives class scores (N, K, H, W).")
    if size is not None:
        texts.append(f"One size, {size[0]}x{size[1]}: larger images go in windows, smaller ones are padded.")
    else:
        texts.append(f"Sides are multiples of {source.network.multiple}, to which images are padded by their border.")
        if exported["target"] not in ("safetensors", "smp"):
            texts.append(f"Sides are at least {source.smallest_side}.")
    if batch is not None:
        texts.append(f"{batch} image{'s' if batch > 1 else ''} at a time.")
    if short := source.run.data.parameters.get("short_side"):
        texts.append(f"Larger images were first shrunk to a shorter side of {short}.")
    return " ".join(texts)


def code(source: Source, exported: Mapping[str, Any]) -> str:
    """Code that loads the file in the current folder and labels `image.png`.

    Raises:
        KeyError: another target than those of the export.
    """
    size, batch, many = exported["size_hw"], exported["batch"], source.network.multiple
    makes = "labels" if exported["preprocessing"] else "scores"
    sides = f"(-side % {many} for side in rgb.shape[:2])"
    if size is not None:
        sides = f"{size[0]} - rgb.shape[0], {size[1]} - rgb.shape[1]  # of a larger image: of each window"
    lines = [
        "import numpy as np",
        "from PIL import Image",
        "",
        'rgb = np.asarray(Image.open("image.png").convert("RGB"))',
        f"bottom, right = {sides}",
        'image = np.pad(rgb, ((0, bottom), (0, right), (0, 0)), "edge")[None]',
    ]
    if not exported["preprocessing"]:
        lines += [
            f"image = (image - {list(source.info.mean)}) / {list(source.info.std)}",
            "image = np.ascontiguousarray(image.transpose(0, 3, 1, 2)"
            + ("[:, ::-1]" if source.info.bgr else "")
            + ", np.float32)",
        ]
    if batch is not None and batch > 1:
        lines.append(f"image = np.repeat(image, {batch}, axis=0)  # or as many images")
    lines += ["", *_loaders(source, makes)[exported["target"]], ""]
    labels = "labels" if exported["preprocessing"] else "scores.argmax(1)"
    lines.append(f"labels = {labels}[:, : rgb.shape[0], : rgb.shape[1]]")
    return "\n".join(lines)


def _loaders(source: Source, makes: str) -> dict[str, list[str]]:
    """By target the lines that make scores or labels of `image`."""
    torch_run = ["with torch.no_grad():", f"    {makes} = network(torch.from_numpy(image)).numpy()"]
    return {
        "safetensors": _with_weights(source, makes),
        "smp": [
            "import segmentation_models_pytorch as smp",
            "import torch",
            "",
            'network = smp.from_pretrained(".").eval()',
            *torch_run,
        ],
        "torch-export": ["import torch", "", f'network = torch.export.load("{PROGRAM}").module()', *torch_run],
        "onnx": [
            "import onnxruntime",
            "",
            f'session = onnxruntime.InferenceSession("{ONNX}", providers=["CPUExecutionProvider"])',
            f'{makes} = session.run(None, {{"image": image}})[0]',
        ],
        "openvino": [
            "import openvino",
            "",
            f'network = openvino.compile_model("{openvino_model.MODEL}", "CPU", {{"INFERENCE_PRECISION_HINT": "f32"}})',
            f"{makes} = network(image)[0]",
        ],
        "executorch": [
            "import torch",
            "from executorch.runtime import Runtime",
            "",
            f'program = Runtime.get().load_program("{executorch_program.PROGRAM}")',
            'network = program.load_method("forward")',
            f"{makes} = network.execute([torch.from_numpy(image)])[0].numpy()",
        ],
    }


def _with_weights(source: Source, makes: str) -> list[str]:
    """Weights in the network's own library."""
    network, classes = source.run.network, source.info.num_classes
    load = f'network.load_state_dict(load_file("{WEIGHTS}"))'
    first, result = ["import torch", "from safetensors.torch import load_file"], ""
    settings: list[str] = []
    if network.architecture in SMP:
        options = any_size(network.parameters) if network.architecture == "dpt" else network.parameters
        given = {key: tuple(value) if isinstance(value, list) else value for key, value in options.items()}
        first.insert(0, "import segmentation_models_pytorch as smp")
        settings = [f"options = {given!a}"] if given else []
        made = f"smp.{SMP[network.architecture]}({network.encoder!a}, encoder_weights=None, classes={classes}"
        made += ", **options)" if given else ")"
    elif network.architecture in TORCHVISION:
        first.append("from torchvision.models import segmentation")
        function = f"segmentation.{TORCHVISION[network.architecture]}_{network.encoder}"
        made, result = f"{function}(weights=None, weights_backbone=None, num_classes={classes})", '["out"]'
    else:
        first += ["from harness.experiment.spec import Network", "from harness.models import build, load_into"]
        said = network.model_dump(mode="json", exclude={"encoder_weights"}, exclude_defaults=True)
        made, result = f"build(Network(**{said!a}), {classes}, 0)", ".full"
        load = f'load_into(network, load_file("{WEIGHTS}"), "{WEIGHTS}")'
    run = ["with torch.no_grad():", f"    {makes} = network(torch.from_numpy(image)){result}.numpy()"]
    return [*first, "", *settings, f"network = {made}.eval()", load, *run]


def _numbers(values: Iterable[float]) -> str:
    return ", ".join(f"{value:g}" for value in values)
