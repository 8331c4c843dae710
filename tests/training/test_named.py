"""Numbers with names in one tensor are those of a mapping."""

import pytest
import torch

from harness.training.log import Log
from harness.training.named import Named
from harness.training.ranks import Ranks

pytestmark = pytest.mark.torch


def named(**values: float) -> Named:
    return Named.of({name: torch.tensor(value) for name, value in values.items()})


def test_sums_of_names_that_come_and_go_are_those_of_a_mapping() -> None:
    steps = [{"task": 1.0, "kd": -2.0}, {"kd": 3.0, "task": 0.5}, {"task": 0.25}, {"task": 4.0, "late": 7.0}]
    expected: dict[str, float] = {}
    log = Log()
    for step in steps:
        for name, value in step.items():
            expected[name] = expected.get(name, 0.0) + value
        log.add(named(**step))
    assert {name: float(value) for name, value in log.since.scalars().items()} == expected
    assert {name: float(value) for name, value in log.total.scalars().items()} == expected | {"kd": 5.0}
    assert log.total.values.dtype == torch.float64
    log.write_losses(Ranks(torch.device("cpu")), 4, 0.1)
    assert log.losses == [{"step": 4, "lr": 0.1, "terms": {name: value / 4 for name, value in expected.items()}}]
    assert log.since.scalars() == {}


def test_what_lacks_a_name_has_the_missing_value() -> None:
    least = named(a=3.0).with_those(named(b=5.0, a=4.0), torch.minimum, missing=torch.inf)
    assert least.scalars() == {"a": 3.0, "b": 5.0}


def test_adding_is_the_same_few_operations_for_any_number_of_terms() -> None:
    def operations(count: int) -> int:
        log, terms = Log(), named(**{f"term {i}": float(i) for i in range(count)})
        log.add(terms)
        with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU]) as seen:
            log.add(terms)
        return len([event for event in seen.events() if event.name.startswith("aten::")])

    assert operations(1) == operations(12) < 10
