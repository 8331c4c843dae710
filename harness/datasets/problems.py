"""What is wrong with an experiment's data, found before anything trains and without reading every file."""

from collections.abc import Iterator, Sequence
from pathlib import Path

from harness.datasets import SOURCES, cache, content, filedata, index
from harness.datasets.inspect import source_of
from harness.datasets.source import OFFICIAL, Sample, Source
from harness.datasets.tree import Tree
from harness.experiment.load import listed
from harness.experiment.spec import Dataset


def problems(data: Dataset) -> tuple[list[str], list[str]]:
    """Errors, a line each, and notes on the data of an experiment.

    Files that were read before and have not changed are not read again. Of the others only a few are, until each
    split has shown a labelled pixel: a run, and `sstkd-bench data check`, read all of them.

    Args:
        data: the section `data` of an experiment.

    Returns:
        Errors: a run on this data would fail. Notes: what is left out.
    """
    try:
        if data.name not in SOURCES or data.root is None or cache.is_cache(Path(data.root)):
            content.content_hash(data)
            return [], []
        parameters = content.filled(data).parameters
        source, variant, _ = source_of(data.name, Path(data.root), parameters)
        tree = Tree(Path(data.root))
        listing = source.listing(tree, **variant)
        if listing.problems:
            return listed(listing.problems).splitlines(), listing.notes
        filedata.require_pairs(source, tree.root, listing.samples)
        if all(index.known(source, tree, listing.samples.get(split, [])) for split in OFFICIAL):
            content.content_hash(data)
        else:
            for split in OFFICIAL:
                _require_labelled(source, tree, split, listing.samples.get(split, []))
    except (ValueError, OSError) as error:
        return str(error).splitlines(), []
    return [], listing.notes


def _require_labelled(source: Source, tree: Tree, split: str, samples: Sequence[Sample]) -> None:
    """Read pairs of a split until one has a labelled pixel.

    Raises:
        ValueError: none has, or a file that was read is wrong.
    """
    for sample in _spread(samples):
        if index.examine(source, tree, sample).entry.counts[:-1].any():
            return
    raise ValueError(filedata.unlabelled(tree.root, split, len(samples)))


def _spread(samples: Sequence[Sample]) -> Iterator[Sample]:
    """All samples, the first ones far from each other."""
    step = max(1, len(samples) // 8)
    for first in range(step):
        yield from samples[first::step]
