"""Whether a checkpoint's folder describes another network than the experiment file: config.json beside the weights.

Weights of another network can fit by name and shape: other strides, dilations, heads or class names, images scaled in
another way. What `save_pretrained` of segmentation-models-pytorch and transformers writes says it, and is believed.
"""

import inspect
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import segmentation_models_pytorch as smp

from harness.borders import one_line
from harness.experiment.spec import Network
from harness.experiment.weights import IN_FOLDERS
from harness.models.hub import CONFIG, PREPROCESSOR
from harness.models.pretrained import timm_name
from harness.models.tapnet import TapNet
from harness.models.transformers_nets import KINDS

SMP = {
    name.lower(): name
    for name in ("Unet", "UnetPlusPlus", "MAnet", "Linknet", "FPN", "PSPNet", "PAN", "DPT", "UPerNet")
} | {name.lower(): name for name in ("DeepLabV3", "DeepLabV3Plus", "Segformer")}
"""Classes of segmentation-models-pytorch by architecture."""
_SET_ELSEWHERE = ("encoder_name", "encoder_weights", "in_channels", "classes", "activation", "aux_params")
_OF_THE_LIBRARY = (
    "dtype",
    "torch_dtype",
    "transformers_version",
    "id2label",
    "label2id",
    "num_labels",
    "architectures",
)
_NOT_COMPARED = re.compile(
    r"_.*|.*drop.*|init.*|train_.*|.*loss.*|(class|mask|dice|no_object)_weight|(oversample|importance_sample)_ratio|"
    r"ignore_value|use_auxiliary_head|auxiliary_.*|output_.*|return_.*|encoder_stride|name_or_path|gradient_.*|use_cache|"
    r"use_timm_backbone|use_pretrained_backbone|backbone|backbone_kwargs"
)
"""Values of a configuration of transformers that matter in training alone, or not to the scores."""
SHOWN = 6


def require_as_described(
    built: TapNet,
    network: Network,
    path: str,
    class_names: Sequence[str],
    mean: Sequence[float],
    std: Sequence[float],
) -> None:
    """Compare what lies beside a checkpoint with the experiment file.

    Args:
        built: the network as built for the file.
        network: as in the file.
        path: the weight file. Descriptions beside it count if it has a name that `save_pretrained` gives.
        class_names: K names of the data.
        mean: of the images that the network gets, RGB, 0 to 255.
        std: as `mean`.

    Raises:
        ValueError: they contradict each other; names what both say.
    """
    if Path(path).name not in IN_FOLDERS:
        return
    folder = Path(path).parent
    found = [*_of_network(_read(folder / CONFIG), built, network, class_names)]
    wrong = [f"{CONFIG} says {line}" for line in found]
    wrong += [f"{PREPROCESSOR} says {line}" for line in _of_images(_read(folder / PREPROCESSOR), mean, std)]
    if wrong:
        more = f"; and {len(wrong) - SHOWN} more" if len(wrong) > SHOWN else ""
        raise ValueError(
            f"{folder} describes another network than the experiment file: {'; '.join(wrong[:SHOWN])}{more}. Correct "
            "the file; if the folder's description is wrong, correct or delete it"
        )


def _read(path: Path) -> dict[str, Any]:
    """What a description says; nothing if there is none.

    Raises:
        ValueError: it is no JSON object.
    """
    try:
        found = json.loads(path.read_bytes()) if path.is_file() else {}
    except (OSError, ValueError) as error:
        raise ValueError(f"{path} cannot be read: {one_line(error, 200)}. Put it right, or delete it") from None
    if not isinstance(found, dict):
        raise ValueError(f"{path} is no JSON object. Put it right, or delete it")
    return found


def _of_network(
    config: Mapping[str, Any], built: TapNet, network: Network, class_names: Sequence[str]
) -> Iterator[str]:
    channels = config.get("in_channels", config.get("num_channels", 3))
    if channels != 3:
        yield f"{channels} channels of an image; here they are 3"
    if "_model_class" in config:
        yield from _of_smp(config, network)
    elif "model_type" in config or "id2label" in config:
        yield from _of_transformers(config, built, network)
    else:  # of a class of the user's own: its arguments
        yield from _unequal({key: config[key] for key in config.keys() & network.parameters.keys()}, network.parameters)
    count = next((config[key] for key in ("classes", "num_classes", "num_labels") if key in config), None)
    labels = config.get("id2label")
    if isinstance(labels, Mapping):
        count = len(labels)
    if isinstance(count, int) and count != len(class_names):
        yield f"{count} classes; the data has {len(class_names)}"
    elif isinstance(labels, Mapping):
        yield from _of_classes([str(labels.get(str(i), "")) for i in range(len(labels))], class_names)


def _of_smp(config: Mapping[str, Any], network: Network) -> Iterator[str]:
    own = SMP.get(network.architecture)
    if own is None or config["_model_class"] != own:
        named = next((key for key, name in SMP.items() if name == config["_model_class"]), None)
        yield f"{config['_model_class']} of segmentation-models-pytorch; the file has {network.architecture}" + (
            f", not {named}" if named else ""
        )
        return
    encoder = str(config.get("encoder_name", network.encoder))
    if (timm_name(encoder) or encoder) != (timm_name(network.encoder or "") or network.encoder):
        yield f"encoder_name {encoder}; the file has encoder: {network.encoder}"
    parameters = inspect.signature(getattr(smp, own)).parameters
    defaults = {k: p.default for k, p in parameters.items() if p.kind is not p.VAR_KEYWORD and k not in _SET_ELSEWHERE}
    ours = defaults | network.parameters
    yield from _unequal({key: config[key] for key in config.keys() & ours.keys()}, ours)


def _of_transformers(config: Mapping[str, Any], built: TapNet, network: Network) -> Iterator[str]:
    kind = KINDS.get(network.architecture)
    classes = config.get("architectures") or []
    if kind is None:
        name = ", ".join(map(str, classes)) or config.get("model_type")
        yield f"{name} of transformers; the file has {network.architecture}"
    elif classes and kind.network not in classes:
        yield f"{', '.join(map(str, classes))}; the file has {network.architecture}, which is {kind.network}"
    else:
        inner: Any = built.network
        any_size = () if kind.multiple is None else ("image_size",)  # that of the pretraining says nothing then
        yield from _of_values(config, json.loads(inner.config.to_json_string(use_diff=False)), any_size)


def _of_values(
    config: Mapping[str, Any], ours: Mapping[str, Any], without: Sequence[str], before: str = ""
) -> Iterator[str]:
    """Differing values of two configurations, and of those in them, that are in both."""
    for key in sorted(config.keys() & ours.keys()):
        theirs, own = config[key], ours[key]
        if key in (*_OF_THE_LIBRARY, *without) or _NOT_COMPARED.fullmatch(key):
            continue
        if isinstance(theirs, Mapping) and isinstance(own, Mapping):
            yield from _of_values(theirs, own, without, f"{before}{key}.")
        elif theirs is not None and own is not None:
            yield from _unequal({key: theirs}, ours, before)


def _unequal(theirs: Mapping[str, Any], ours: Mapping[str, Any], before: str = "") -> Iterator[str]:
    for key in sorted(theirs):
        if _plain(theirs[key]) != _plain(ours[key]):
            yield f"{before}{key} {one_line(theirs[key], 80)}; the network here has {one_line(ours[key], 80)}"


def _plain(value: Any) -> Any:
    """Lists and tuples are the same."""
    return [_plain(item) for item in value] if isinstance(value, list | tuple) else value


def _of_classes(theirs: Sequence[str], ours: Sequence[str]) -> Iterator[str]:
    if all(re.fullmatch(r"LABEL_\d+", name) for name in theirs):
        return
    for index, (name, own) in enumerate(zip(theirs, ours, strict=True)):
        if _word(name) != _word(own):
            yield f"class {index} is {one_line(name, 40)}; the data's is {one_line(own, 40)}"
            return


def _word(name: str) -> str:
    return re.sub(r"[\W_]", "", name).casefold()


def _of_images(given: Mapping[str, Any], mean: Sequence[float], std: Sequence[float]) -> Iterator[str]:
    if "image_mean" not in given and "do_normalize" not in given:
        return
    scale = float(given.get("rescale_factor") or 1 / 255) if given.get("do_rescale", True) else 1.0
    normalises = given.get("do_normalize", True)
    for name, ours, otherwise in (("mean", mean, 0.0), ("std", std, 1.0)):
        theirs = given.get(f"image_{name}") if normalises else None
        theirs = theirs if isinstance(theirs, list) and len(theirs) == 3 else [otherwise] * 3
        if any(abs(value / scale - own) > 1.0 for value, own in zip(theirs, ours, strict=True)):
            here = [round(value / 255, 4) for value in ours]
            shown = [round(value / scale / 255, 4) for value in theirs]
            yield f"{name} {shown} of images in 0 to 1; here it is {here} (`input: {{{name}: {shown}}}` changes it)"
