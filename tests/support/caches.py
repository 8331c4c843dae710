"""A prepared cache, made in this process by what otherwise runs in Ray's workers."""

from pathlib import Path

from harness.datasets.tree import Tree
from harness.execution.prepare_data import complete, make_shard, shard_tasks


def prepared(source, root: Path, to: Path, how="raw", short_side=None, variant=None) -> Path:
    (to / "shards").mkdir(parents=True)
    tree, variant = Tree(root), variant or {}
    tasks = shard_tasks(source, tree, source.listing(tree, **variant).samples, variant, short_side, how)
    complete(source, to, variant, short_side, how, [make_shard(source, root, to, t, short_side, how) for t in tasks])
    return to
