"""What is used of Ray that it calls private: what for, and what to look for when a release moves it."""

import importlib
import re
from pathlib import Path

import pytest

pytestmark = pytest.mark.torch
PACKAGE = Path(__file__).parents[2] / "harness"
MODULE = "ray._private.ray_constants"
CONSTANT = f"{MODULE}.ENABLE_RAY_CLUSTER"  # the module is imported, its constant set
PRIVATE = {
    MODULE: (
        "ENABLE_RAY_CLUSTER",
        "a local instance on 127.0.0.1; where `ray.init` takes an address to listen on, use that",
    ),
    "ray._private.authentication.authentication_token_generator": (
        "generate_new_authentication_token",
        "a token in a file that others cannot read; `ray get-auth-token --generate` under umask 077 makes one too",
    ),
    "ray._private.authentication.authentication_token_setup": (
        "maybe_enable_token_auth_if_token_available",
        "the token of a cluster on this machine; RAY_AUTH_MODE=token and RAY_AUTH_TOKEN_PATH in the environment",
    ),
    "ray._raylet": (
        "AuthenticationTokenLoader",
        "a token that was made after Ray was loaded is found; a token made before `import ray` needs no reset",
    ),
    "ray._private.state": (
        "state.get_draining_nodes state.available_resources_per_node",
        "room on each node, where `ray.available_resources` has sums, and nodes that are taken away; `ray.train.get_preemption_info` tells the ranks of a group, nothing tells others",
    ),
}
"""The name in each private module, and why, or what may replace it."""


@pytest.mark.parametrize("module", PRIVATE)
def test_a_private_name_is_still_there(module: str) -> None:
    names, instead = PRIVATE[module]
    for name in names.split():
        found = importlib.import_module(module)
        for part in name.split("."):
            assert hasattr(found, part), f"{module}.{name} is gone in this Ray. It is for: {instead}"
            found = getattr(found, part)


def test_no_other_private_name_is_used() -> None:
    used = set()
    for path in PACKAGE.rglob("*.py"):
        text = re.sub(r"from (ray\._\S+) import (\w+)", r"\1.\2", path.read_text())
        if path.name != "job.py":  # names of loggers
            used |= set(re.findall(r"ray\._[\w.]+", text))
    known = {f"{module}.{names.split('.')[0]}" for module, (names, _) in PRIVATE.items()}
    assert used == known - {CONSTANT} | {MODULE}
