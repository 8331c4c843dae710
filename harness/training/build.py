"""Builds data, networks, teacher and method of a run from its spec. Data and teacher stay in memory between runs."""

import functools
import importlib
import json
import warnings
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from numpy.typing import NDArray
from torch import Tensor

from harness import seeds
from harness.datasets import DATASETS, Data, DataInfo, content
from harness.distillers import METHODS, Distiller
from harness.distillers._sum import Sum
from harness.experiment.method import Method, dataset_entry, method_entry
from harness.experiment.signatures import Entry, keywords
from harness.experiment.spec import Dataset, Network, Run, Teacher
from harness.experiment.weights import Weights
from harness.models import TapNet, build, inputs, load_into, load_state, load_weights
from harness.models.described import require_as_described
from harness.results import paths, reuse, store
from harness.results.paths import weights_path
from harness.taps import Pair
from harness.training.cost import macs, parameters
from harness.training.normalize import by_channel

Share = Callable[[str, Callable[[], Any]], Any]
"""`share(key, make)` is `make()`, or an equal object that another process of this machine has made."""
Arrays = dict[str, tuple[NDArray[Any], torch.dtype, tuple[int, ...]]]


def _made(key: str, make: Callable[[], Any]) -> Any:
    return make()


def load_data(data: Dataset, share: Share = _made) -> Data:
    """The dataset; a process that runs several runs on it loads it once.

    Args:
        data: which.
        share: `Runtime.share`: a generated dataset is made once per machine. A dataset in files is not shared: its
            prepared cache is mapped into memory, so all processes use the same pages anyway.
    """
    return _load_data(data.name, data.root, json.dumps(data.parameters, sort_keys=True), share)


@functools.lru_cache(maxsize=1)
def _load_data(name: str, root: str | None, parameters: str, share: Share) -> Data:
    options = keywords(dataset_entry(name), json.loads(parameters))
    if ":" in name:
        return content.load(Dataset(name=name, root=root, parameters=json.loads(parameters)))
    if root is not None:
        return DATASETS[name](Path(root), **options)
    data: Data = share(f"data {name} {parameters}", lambda: DATASETS[name](None, **options))
    return data


def for_inputs(data: Data, normalize: str, network: Network) -> Data:
    """The dataset with the mean and standard deviation by which images are normalised for this network."""
    if network.input is not None:
        mean, std = (tuple(255.0 * value for value in values) for values in (network.input.mean, network.input.std))
        info = replace(data.info, mean=(mean[0], mean[1], mean[2]), std=(std[0], std[1], std[2]), bgr=network.input.bgr)
    elif normalize == "dataset":
        return data
    elif normalize == "bgr-mean":
        info = replace(data.info, mean=inputs.CAFFE_MEAN, std=(1.0, 1.0, 1.0), bgr=True)
    else:
        mean, std = inputs.input_statistics(network.encoder)
        info = replace(data.info, mean=mean, std=std)
    return replace(data, info=info)


def converted(image: Tensor, seen: DataInfo, wanted: DataInfo) -> Tensor:
    """Images (N, 3, H, W) normalised as `seen`, renormalised as `wanted`; the same tensor if these are equal."""
    if (seen.mean, seen.std, seen.bgr) == (wanted.mean, wanted.std, wanted.bgr):
        return image
    image = image.flip(1) if seen.bgr else image
    mean, std, other_mean, other_std = (
        by_channel(values, image.device) for values in (seen.mean, seen.std, wanted.mean, wanted.std)
    )
    image = (image * std + (mean - other_mean)) / other_std
    return image.flip(1) if wanted.bgr else image


def build_network(run: Run, info: DataInfo) -> TapNet:
    """The network that the run trains: the same initial weights for every method of the same seed."""
    network = build(run.network, info.num_classes, seeds.derive(run.stream_seed, "initial weights"))
    if run.checkpoint is not None:
        load_given(network, run.network, run.checkpoint, info)
    return network


def load_given(built: TapNet, network: Network, checkpoint: Weights, info: DataInfo) -> None:
    """Load a given checkpoint of the whole network.

    Args:
        built: the network.
        network: as in the experiment file.
        checkpoint: its weights.
        info: the data, with the mean and standard deviation that the network's images get (`for_inputs`).

    Raises:
        ValueError: it is missing or does not fit, or a description beside it contradicts the experiment file.
    """
    state = load_weights(checkpoint)
    require_as_described(built, network, checkpoint.path, info.class_names, info.mean, info.std)
    load_into(built, state, checkpoint.path)


def network_cost(network: Network, num_classes: int, height: int, width: int) -> tuple[int, int]:
    """Trainable parameters, and MACs of one image; computed once per process, since weights do not matter.

    Raises:
        ValueError: it cannot be built.
    """
    plain = Network.model_validate({**network.model_dump(include=set(Network.model_fields)), "encoder_weights": None})
    return _network_cost(plain.model_dump_json(), num_classes, height, width)


@functools.lru_cache(maxsize=16)
def _network_cost(network: str, num_classes: int, height: int, width: int) -> tuple[int, int]:
    built = build(Network.model_validate_json(network), num_classes, 0)
    # Only shapes are counted: on the meta device nothing is computed or held.
    return parameters(built), macs(built.to("meta"), torch.zeros(1, 3, height, width, device="meta"))


def teacher_weights(run: Run, info: DataInfo, directory: Path) -> tuple[Path, str]:
    """File and expected SHA-256 of the run's teacher.

    Raises:
        ValueError: the teacher's own run is missing or failed, or saw other data than `info` describes.
    """
    assert run.teacher_run is not None
    path = paths.run_path(directory, run.teacher_run)
    if not path.is_file():
        raise ValueError(f"the teacher's row {path} is missing: the teacher {run.teacher_run} has not been trained")
    row = store.read_row(path)
    if row["status"] != "ok":
        raise ValueError(f"the teacher {run.teacher_run} {row['status']}: {row['message']}")
    found = reuse.standings(directory, [run.teacher_run], lambda: info.content_hash)
    reuse.require_current(found, directory, f"experiments/{run.experiment}.yaml")
    return weights_path(directory, run.teacher_run), row["weights_sha256"]


def build_teacher(run: Run, info: DataInfo, directory: Path, device: torch.device, share: Share = _made) -> TapNet:
    """The frozen teacher in eval mode; loaded once per process, its weights are read once per machine.

    Raises:
        ValueError: its weights are missing or are not the ones its row names.
    """
    assert run.teacher is not None
    path, digest = teacher_weights(run, info, directory)
    return _load_teacher(run.teacher.model_dump_json(), info.num_classes, path, digest, device, share)


def release_teacher() -> None:
    """Let go of the teacher of earlier runs: it is no part of the memory of a run that needs none."""
    _load_teacher.cache_clear()


@functools.lru_cache(maxsize=1)
def _load_teacher(
    network: str, num_classes: int, path: Path, digest: str, device: torch.device, share: Share
) -> TapNet:
    spec = Teacher.model_validate_json(network).model_copy(update={"encoder_weights": None})
    teacher = build(spec, num_classes, seed=0)
    state = _tensors(share(f"weights {digest}", lambda: _arrays(load_state(path, digest))))
    # Assigned, not copied: on a CPU all processes of a machine share this memory.
    load_into(teacher, state, str(path), assign=True)
    return teacher.eval().requires_grad_(False).to(device)


def _arrays(state: dict[str, Tensor]) -> Arrays:
    """Tensors as bytes that processes share without a copy; numpy lacks some of torch's types."""
    return {
        name: (value.contiguous().flatten().view(torch.uint8).numpy(), value.dtype, tuple(value.shape))
        for name, value in state.items()
    }


def _tensors(arrays: Arrays) -> dict[str, Tensor]:
    with warnings.catch_warnings():
        # Shared memory is read-only; nothing writes a teacher, see `guards.teacher_untouched`.
        warnings.filterwarnings("ignore", "The given NumPy array is not writable")
        return {name: torch.from_numpy(values).view(kind).view(shape) for name, (values, kind, shape) in arrays.items()}


def build_method(method: Method, pair: Pair, seed: int) -> Distiller:
    """The distiller, or the sum of several; each is initialised from a random stream of its own.

    Raises:
        ValueError: the method does not apply to this pair, or a hyper-parameter is out of range.
    """
    parts = {part.name: _build_one(part, pair, seed) for part in method.parts}
    return Sum(parts) if len(parts) > 1 else parts[method.name]


def _build_one(method: Method, pair: Pair, seed: int) -> Distiller:
    entry = method_entry(method.name)
    kind = METHODS[method.name] if method.name in METHODS else _imported(entry)
    options = keywords(entry, method.parameters)
    reason = kind.skip(pair, **options)
    if reason is not None:
        raise ValueError(f"method {method.label} does not apply to this pair: {reason}")
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seeds.derive(seed, "distiller"))
        return kind(pair, **options)


def _imported(entry: Entry) -> type[Distiller]:
    """A method from outside the project, `package.module:Class`."""
    module, _, name = entry.target.partition(":")
    kind = getattr(importlib.import_module(module), name)
    if not (isinstance(kind, type) and issubclass(kind, Distiller)):
        raise ValueError(f"{entry.target} is not a subclass of harness.distillers.Distiller")
    return kind
