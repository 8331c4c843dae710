"""A search on many nodes, some of which are lost: each trial has one row, none is missing, none is made twice.

Twelve trials on three nodes of which one is lost, or with `--kills 10` (`make soak`) two hundred on eight, of which two are.
"""

import random
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from harness.results import paths, store
from harness.search.status import TrialUpdate
from harness.search.tuner import search
from tests.support import cluster
from tests.support.searches import searched

pytestmark = [pytest.mark.chaos, *cluster.QUIET]

SHORT = ("train.steps=2", "train.eval_every=2", "train.schedule.warmup_steps=1", "resources.max_failures=5")
SMALL = {"name": "texmosaic", "parameters": {"size": 64, "train": 12, "dev": 2, "val": 2}}


def test_a_search_that_loses_nodes_has_each_trial_once(request: pytest.FixtureRequest, tmp_path: Path) -> None:
    whole = int(request.config.getoption("--kills")) > 2
    count, trials, losses = (8, 200, 2) if whole else (3, 12, 1)
    seed = request.config.getoption("--chaos-seed")
    dice = random.Random(1 if seed is None else int(seed))
    told: list[TrialUpdate] = []
    lost: list[Any] = []
    with cluster.nodes(count) as made:
        of = searched(
            tmp_path, "random", *SHORT, f"search.trials={trials}", f"resources.address={made.address}",
            data=SMALL, methods=["none"],
        )  # fmt: skip

        def on_trial(update: TrialUpdate) -> None:
            told.append(update)
            ended = sum(each.status == "ok" for each in told)
            if len(lost) < losses and ended >= (len(lost) + 1) * trials // 4:
                node = dice.choice(sorted(made.worker_nodes, key=lambda each: str(each.node_id)))
                lost.append(node)
                made.remove_node(node, allow_graceful=False)

        search(of, tmp_path / "tiny", on_trial)
    folder = paths.search_folder(tmp_path / "tiny")
    rows = [store.read_row(path) for path in (folder / "runs").glob("*.parquet")]
    assert len(lost) == losses
    assert sorted(row["trial"] for row in rows if row["role"] == "student") == list(range(trials))
    assert {row["status"] for row in rows} == {"ok"}
    ends = Counter((each.trial, each.seed) for each in told if each.status == "ok")
    assert len(ends) == trials and set(ends.values()) == {1}
    assert not list(folder.glob("checkpoints/*"))
