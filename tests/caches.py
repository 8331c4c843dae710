"""A prepared cache, made in this process by what otherwise runs in Ray's workers."""

from pathlib import Path

import pyarrow as pa

from harness.datasets import cache
from harness.datasets.source import tables_sha256
from harness.datasets.tree import Tree
from harness.prepare import _make, _tasks


def prepared(source, root: Path, to: Path, how="raw", short_side=None, variant=None) -> Path:
    (to / "shards").mkdir(parents=True)
    tree, variant = Tree(root), variant or {}
    tasks = list(_tasks(source, tree, source.listing(tree, **variant).samples, variant, short_side, how))
    made = [_make(source, root, to, task, short_side, how) for task in tasks]
    cache.write_manifest(
        to,
        pa.concat_tables(lines for _, lines in made),
        name=source.name,
        variant=variant,
        short_side=short_side,
        format=how,
        class_names=source.class_names,
        palette=source.palette,
        tables_sha256=tables_sha256(source),
        shards=tuple(shard for shard, _ in made),
    )
    return to
