"""What is known of the real networks of harness.testing, kept in networks.json: to build fifty of them takes 20 seconds.

`python -m tests.support.networks` writes the file anew; a test of `.ci/run` compares it with networks just built.
"""

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

from harness.taps import NetworkInfo, TapInfo
from harness.testing import networks

FILE = Path(__file__).with_name("networks.json")
Networks = tuple[dict[str, NetworkInfo], dict[str, str]]
built = networks.networks  # as it is before tests replace it


def stored() -> Networks:
    """As `networks.networks` gives it."""
    known, refused = json.loads(FILE.read_text())
    return {name: _info(taps) for name, taps in known.items()}, refused


def _info(taps: dict[str, Any]) -> NetworkInfo:
    stages = {name: TapInfo(**tap) for name, tap in taps["stages"].items()}
    return NetworkInfo(stages, TapInfo(**taps["decoder"]), TapInfo(**taps["logits"]))


if __name__ == "__main__":
    found, refused = built()
    FILE.write_text(json.dumps([{name: asdict(info) for name, info in found.items()}, refused], indent=1) + "\n")
