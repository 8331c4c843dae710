"""Merges a user's changes into a manifest, after the manner of Kubernetes' strategic merge."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml

from harness.borders import quoted
from harness.cluster.secrets import refuse_secrets

MERGE_KEYS = {
    **dict.fromkeys(("containers", "initContainers", "volumes", "env", "imagePullSecrets"), "name"),
    "volumeMounts": "mountPath",
    "workerGroupSpecs": "groupName",
}
"""Lists whose items are merged by this key; other lists, such as tolerations, are replaced."""
KIND, DIRECTIVE = "RayJob", "$patch"
MOST_BYTES = 2**20


def patched(documents: Sequence[dict[str, Any]], file: Path) -> list[dict[str, Any]]:
    """The documents with the changes in a file: mappings in YAML, each for the document of its `kind` (RayJob if none).

    A mapping is merged key by key, a list of `MERGE_KEYS` item by item; `null` deletes a key, `$patch: delete` an item.

    Raises:
        ValueError: the file is not like that, or contains something like a secret.
        OSError: it cannot be read.
    """
    data = file.read_bytes()
    if len(data) > MOST_BYTES:
        raise ValueError(f"{file}: {len(data):,} bytes; a patch has at most {MOST_BYTES:,}")
    text = data.decode(errors="replace")
    refuse_secrets(text, str(file))
    try:
        changes = [each for each in yaml.safe_load_all(text) if each is not None]
    except (yaml.YAMLError, RecursionError) as error:
        raise ValueError(f"{file}: not valid YAML: {' '.join(str(error).split())[:300]}") from None
    found = [*documents]
    for change in changes:
        if not isinstance(change, dict):
            raise ValueError(f"{file}: a patch is a mapping, such as `spec: {{suspend: true}}`; given {quoted(change)}")
        kind = change.get("kind", KIND)
        index = next((i for i, each in enumerate(found) if each["kind"] == kind), None)
        if index is None:
            kinds = ", ".join(each["kind"] for each in found)
            raise ValueError(f"{file}: kind: {quoted(kind)}: the manifest has {kinds}")
        try:
            found[index] = _merged(found[index], change, file, "")
        except RecursionError:
            raise ValueError(f"{file}: is nested too deeply, or holds itself by an alias") from None
    return found


def _merged(before: dict[str, Any], change: dict[Any, Any], file: Path, at: str) -> dict[str, Any]:
    found = dict(before)
    for key, value in change.items():
        here = f"{at}.{key}" if at else str(key)
        if not isinstance(key, str):
            raise ValueError(f"{file}: {here}: keys are words; quote it")
        if key == DIRECTIVE:
            raise ValueError(f"{file}: {here}: is for items of lists with names; null deletes a key")
        old = found.get(key)
        if value is None:
            found.pop(key, None)
        elif old is not None and isinstance(old, dict) != isinstance(value, dict):
            raise ValueError(f"{file}: {here}: {_what(old)} in the manifest, {_what(value)} in the patch")
        elif isinstance(value, dict):
            found[key] = _merged(old or {}, value, file, here)
        elif key in MERGE_KEYS:
            found[key] = _merged_items(old or [], value, MERGE_KEYS[key], file, here)
        elif isinstance(old, list) != isinstance(value, list) and old is not None:
            raise ValueError(f"{file}: {here}: {_what(old)} in the manifest, {_what(value)} in the patch")
        else:
            found[key] = value
    return found


def _merged_items(before: list[dict[str, Any]], change: Any, name: str, file: Path, at: str) -> list[dict[str, Any]]:
    if not isinstance(change, list) or not all(
        isinstance(each, dict) and isinstance(each.get(name), str) for each in change
    ):
        raise ValueError(f"{file}: {at}: is a list of mappings, each with its {name}")
    found = {each[name]: each for each in before}
    for each in change:
        item = dict(each)
        if (directive := item.pop(DIRECTIVE, None)) == "delete":
            found.pop(item[name], None)
        elif directive is not None:
            raise ValueError(f"{file}: {at}[{item[name]}].{DIRECTIVE}: {quoted(directive)}; only delete is supported")
        else:
            found[item[name]] = _merged(found.get(item[name], {}), item, file, f"{at}[{item[name]}]")
    return [*found.values()]


def _what(value: Any) -> str:
    return "a mapping" if isinstance(value, dict) else "a list" if isinstance(value, list) else "a value"
