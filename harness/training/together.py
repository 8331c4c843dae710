"""Drives runs that ask for one batch after another: one by itself, or several that are fed with the same."""

from collections.abc import Callable, Generator, Mapping
from typing import TypeVar, cast

from harness.training.feed import Fed, Feed, Need

T = TypeVar("T")
Steps = Generator[Need, Fed, T]
"""A run: it asks for the batch of a step and is sent it; what it returns is its result."""


def alone(run: "Steps[T]") -> T:
    """Drive one run to its end."""
    feed: Feed | None = None
    try:
        need = next(run)
        while True:
            fed = None  # not held while the next batch is made
            try:
                feed = feed or Feed([need], need.run.train.steps)
                fed = feed.at(need.step, need.teacher is not None)
            except Exception as error:
                need = _thrown(run, error)
            else:
                need = run.send(fed)
    except StopIteration as end:
        result: T = end.value
        return result
    finally:
        if feed is not None:
            feed.close()


def _thrown(run: "Steps[T]", error: Exception) -> Need:
    """Raise an error in the run, which asked for what failed: it is recorded as one of its own."""
    return run.throw(error if not isinstance(error, StopIteration) else RuntimeError("no batch is left"))


def together(runs: "Mapping[str, Steps[T]]", memory: int, on_end: Callable[[str, T], None]) -> list[str]:
    """Drive runs with the same batches, and the same teacher where they have one, step by step.

    A run that stands behind the others, after an interruption, gets its steps before they go on. One that writes into
    what all are given has the batch made anew for the others.

    Args:
        runs: by name, in the order in which they have their turns.
        memory: bytes that all runs may hold between their steps; the first one is begun in any case.
        on_end: called with a run's name and result when it has ended.

    Returns:
        The names of runs that were not begun, for lack of memory.

    Raises:
        Exception: what a run raises, instead of returning it as its result; the other runs are then where they are.
    """
    needs: dict[str, Need] = {}
    left = [*runs]
    while left and sum(need.memory for need in needs.values()) <= memory:
        name = left.pop(0)
        try:
            needs[name] = next(runs[name])
        except StopIteration as end:
            on_end(name, end.value)
        if len(needs) > 1 and sum(need.memory for need in needs.values()) > memory:
            left.insert(0, name)  # it may have a checkpoint, and loses nothing
            del needs[name]
            runs[name].close()
            break
    if not needs:
        return left
    feed = Feed([*needs.values()], max(need.run.train.steps for need in needs.values()))
    try:
        while needs:
            step = min(need.step for need in needs.values())
            _take_turns(runs, needs, [name for name, need in needs.items() if need.step == step], feed, on_end)
    finally:
        feed.close()
    return left


def _take_turns(
    runs: "Mapping[str, Steps[T]]", needs: dict[str, Need], due: list[str], feed: Feed, on_end: Callable[[str, T], None]
) -> None:
    """One step of the runs that are due; `needs` then says what they need next, and lacks those that have ended."""
    fed: Fed | None = None
    for name in due:
        try:
            if fed is None:
                taught = any(needs[each].teacher is not None for each in due if each in needs)
                fed = feed.at(needs[name].step, taught, len(due), len(needs))
        except Exception as error:
            failed: Exception | None = error
        else:
            failed = None
        try:
            needs[name] = _thrown(runs[name], failed) if failed is not None else runs[name].send(cast("Fed", fed))
        except StopIteration as end:
            del needs[name]
            on_end(name, end.value)
            fed = None if fed is None or fed.written() else fed  # made anew for the others
