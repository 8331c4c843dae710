"""Published weights by name: which file a tag or a repository means, and an experiment with the files that it means.

A tag is the library's own word: timm's (`a1_in1k`), segmentation-models-pytorch's (`imagenet`, `ssl`), torchvision's
(`imagenet1k_v2`). `imagenet` is what the library takes by default, if that was trained or tuned on ImageNet.
"""

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import segmentation_models_pytorch as smp
import timm
from huggingface_hub.errors import HFValidationError
from huggingface_hub.utils import validate_repo_id  # type: ignore[attr-defined]
from torch import Tensor
from torchvision import models as torchvision_models

from harness.borders import without_secrets
from harness.experiment.meanings import nearest
from harness.experiment.spec import Experiment, Network
from harness.experiment.weights import FORMS, IN_FOLDERS, Weights, in_package
from harness.files import sha256
from harness.models import hub
from harness.models.hub import Place
from harness.models.inputs import input_statistics
from harness.models.weights import FETCH, load_state

IMAGENET, DEFAULT = "imagenet", "default"
TORCHVISION = ("lraspp", "deeplabv3-torchvision", "fcn-torchvision")
"""Architectures whose encoders are torchvision's."""
SHOWN = 20
Say = Callable[[str], None]


def _silent(line: str) -> None:
    pass


def resolved(experiment: Experiment, fetch: bool = False, say: Say = _silent) -> Experiment:
    """The experiment with the file, digest and origin of all weights that it names by tag or repository.

    Args:
        experiment: as read from a file.
        fetch: fetch what is not on this machine; otherwise that is an error.
        say: called with a line before and after a file is fetched.

    Raises:
        ValueError: a line for each that is not found: which file it is, and how it comes here; or that was trained on
            images of other statistics than `normalize: encoder` gives.
    """
    wrong: list[str] = []
    pairs = []
    for index, pair in enumerate(experiment.pairs):
        roles = {}
        for role in ("teacher", "student"):
            network = getattr(pair, role)
            found = {}
            for key in ("encoder_weights", "checkpoint"):
                weights = getattr(network, key, None)
                if weights is None or weights.known or _elsewhere(weights):
                    continue
                try:
                    if experiment.train.normalize == "encoder" and network.input is None and weights.tag is not None:
                        _check_statistics(network, weights.tag)
                    found[key] = _found(network, weights, fetch, say)
                except ValueError as error:
                    wrong.append(without_secrets(f"pairs.{index}.{role}.{key}: {error}"))
            roles[role] = network.model_copy(update=found)
        pairs.append(pair.model_copy(update=roles))
    if wrong:
        raise ValueError("\n".join(dict.fromkeys(wrong)))
    return experiment.model_copy(update={"pairs": tuple(pairs)})


def load_weights(weights: Weights) -> dict[str, Tensor]:
    """The state dict of weights. A file that another machine has found is found, or fetched, on this one too.

    Raises:
        ValueError: as `load_state`, or the file cannot be fetched anywhere.
        ConnectionError: the network of this machine fails.
    """
    path, origin = Path(weights.path), weights.source
    if not weights.path and origin is None:
        raise ValueError(f"the file of {weights.named} has not been looked for; Bench.fetch_weights does it")
    if origin is not None and not (weights.path and _is_file(path)):
        path = in_package(origin.name)[0] if origin.kind == "package" else hub.fetch(hub.place_of(origin))[0]
    try:
        return load_state(path, weights.digest)
    except ValueError as error:
        if origin is None or FETCH not in str(error):
            raise
        raise ValueError(f"{error} Delete {path}, and it is.") from None


def _is_file(path: Path) -> bool:
    """Whether a file is there; another machine's home may not be read by this one's user."""
    try:
        return path.is_file()
    except OSError:
        return False


def place(network: Network, weights: Weights) -> Place:
    """Where the weights are published that a network's `encoder_weights` or `checkpoint` names.

    Raises:
        ValueError: no library knows the name.
    """
    if weights.hub is not None:
        repository, _, revision = weights.hub.partition("@")
        try:
            validate_repo_id(repository)
        except HFValidationError:
            raise ValueError(f"{weights.named} names no repository. Write hf:ORGANISATION/NAME@REVISION") from None
        return Place("hub", repository, IN_FOLDERS, revision or None)
    if weights.tag is None:
        raise ValueError(
            f"the file of {weights.named} has not been looked for. Load the experiment where it is, or give its sha256"
        )
    encoder = network.encoder
    if encoder is None:
        raise ValueError(
            f"{weights.tag!r}: a name of published weights needs an encoder, whose library knows it. Give {FORMS}"
        )
    if network.architecture in TORCHVISION:
        return _of_torchvision(encoder, weights.tag)
    if (name := timm_name(encoder)) is not None:
        return _of_timm(name, weights.tag)
    return _of_smp(encoder, weights.tag)


def _elsewhere(weights: Weights) -> bool:
    """Whether weights are a file that is not here and whose digest is known all the same."""
    return weights.sha256 is not None and weights.tag is None and weights.hub is None


def _check_statistics(network: Network, tag: str) -> None:
    """Check that `normalize: encoder` gives images as timm's weights of this name were trained on.

    Raises:
        ValueError: the encoder's default weights were trained on images of other mean or standard deviation.
    """
    name = timm_name(network.encoder or "")
    if name is None or network.architecture in TORCHVISION:
        return
    config = _timm_config(name, tag)
    exact = f"tu-{name.partition('.')[0]}.{config.tag}"
    if config.tag and input_statistics(exact) != input_statistics(network.encoder):
        raise ValueError(
            f"train.normalize: encoder gives the mean and standard deviation of {network.encoder}, but {tag} was "
            f"trained with others. Write encoder: {exact}"
        )


def _found(network: Network, weights: Weights, fetch: bool, say: Say) -> Weights:
    where = place(network, weights)
    here = hub.at_hand(where)
    if here is None and not fetch:
        of = f" of {network.encoder}" if weights.tag else ""
        raise ValueError(
            f"{weights.named}{of} is {where}, which is not on this machine. `sstkd-bench run` fetches it. "
            f"{hub.by_hand(where)}; or name a file: {{path: FILE}}"
        )
    if here is None:
        say(f"weights: fetching {where}")
        try:
            here = hub.fetch(where)
        except ConnectionError as error:
            raise ValueError(str(error)) from None
        say(f"weights: {where}: {here[0].stat().st_size / 2**20:.1f} MB, licence {here[1].licence or 'not named'}")
    path, origin = here
    digest = sha256(path)
    if weights.sha256 not in (None, digest):
        raise ValueError(f"{path}: has sha256 {digest}, expected {weights.sha256}. {weights.named} is another file.")
    return weights.model_copy(update={"path": str(path), "sha256": digest, "source": origin})


def timm_name(encoder: str) -> str | None:
    """timm's name of an encoder; None for one that is segmentation-models-pytorch's own."""
    if smp.encoders.is_equivalent_to_timm_universal(encoder):
        encoder = encoder.replace("timm-", "tu-tf_" if "mobilenetv3" in encoder else "tu-")
    return encoder.removeprefix("tu-") if encoder.startswith("tu-") else None


def _timm_config(name: str, tag: str) -> Any:
    """timm's record of the weights that a name means.

    Raises:
        ValueError: none, or several.
    """
    base, _, own = name.partition(".")
    tags = [n.partition(".")[2] for n in timm.list_pretrained(f"{base}*") if n.partition(".")[0] == base]
    if own and own not in tags:
        raise _unknown(f"tu-{base}", own, tags)
    default = getattr(timm.get_pretrained_cfg(base), "tag", None) if tags else None
    config = timm.get_pretrained_cfg(f"{base}.{chosen}") if (chosen := _chosen(base, own, tag, tags, default)) else None
    if config is None or not (config.hf_hub_id or config.url):
        raise _unknown(f"tu-{name}", tag, tags)
    return config


def _of_timm(name: str, tag: str) -> Place:
    config = _timm_config(name, tag)
    if config.hf_hub_id:
        file = config.hf_hub_filename or "pytorch_model.bin"
        safe = {"pytorch_model.bin": "model.safetensors"}.get(file, re.sub(r"\.bin$", ".safetensors", file))
        repository, _, revision = config.hf_hub_id.partition("@")
        return Place("hub", repository, tuple(dict.fromkeys((safe, file))), revision or None)
    return hub.by_url(config.url)


def _chosen(base: str, own: str, tag: str, tags: list[str], default: str | None) -> str | None:
    """Which of a timm model's tags a name means; None for none or several.

    The tag itself; `imagenet` and `default`, the encoder's own or the library's first; a word of the model's name, the
    same; words that one tag alone ends with, or alone has.
    """
    first = own or default
    if tag in tags:
        return tag
    if tag == DEFAULT or tag in base.split("_") or (tag == IMAGENET and re.search(r"in\d+k|imagenet", first or "")):
        return first
    ending = [known for known in tags if known.endswith(f"_{tag}")]
    having = [known for known in tags if f"_{tag}_" in f"_{known}_"]
    return next((found[0] for found in (ending, having) if len(found) == 1), None)


def _of_smp(encoder: str, tag: str) -> Place:
    known: dict[str, Any] = smp.encoders.encoders.get(encoder, {}).get("pretrained_settings", {})
    found = known.get(next(iter(known), "") if tag == DEFAULT else tag)
    if found is None:
        raise _unknown(encoder, tag, list(known))
    if "repo_id" in found:
        return Place("hub", found["repo_id"], ("model.safetensors",), found.get("revision"))
    return hub.by_url(found["url"])


def _of_torchvision(encoder: str, tag: str) -> Place:
    try:
        known = {found.name.lower(): found.url for found in torchvision_models.get_model_weights(encoder)}
    except ValueError:
        known = {}
    name = {IMAGENET: "imagenet1k_v1", DEFAULT: next(reversed(known), "")}.get(tag, tag.lower())
    if name not in known:
        raise _unknown(encoder, tag, list(known))
    return hub.by_url(known[name])


def _unknown(encoder: str, tag: str, known: list[str]) -> ValueError:
    names = ", ".join([*known[:SHOWN], *(["..."] if len(known) > SHOWN else [])])
    has = f"It has {names}" if known else "Its library publishes none"
    near = nearest(tag, known) if known else ""
    return ValueError(f"{encoder} has no weights named {tag!r}, or several.{near} {has}. Or give {FORMS}")
