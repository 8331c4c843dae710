"""What may be compared: rows that were made before a key existed, with rows that have it at its default."""

import json
from pathlib import Path
from typing import Any

import pytest

from harness.analysis.comparable import refuse_mixture
from harness.experiment.recipe import Train, without_defaults_of_added_keys
from harness.results import store

EXAMPLE = Path(__file__).parents[2] / "results" / "examples" / "quickstart"


def an_old_recipe() -> dict[str, Any]:
    found: dict[str, Any] = json.loads(store.read_row(next((EXAMPLE / "runs").glob("*.parquet")))["recipe"])
    return found


def test_a_recipe_of_an_earlier_release_equals_the_same_one_of_today() -> None:
    old = an_old_recipe()
    today = json.loads(Train.model_validate_json(json.dumps(old)).model_dump_json())
    assert today.keys() > old.keys(), "the example is of before some keys"
    assert without_defaults_of_added_keys(old) == without_defaults_of_added_keys(today)
    assert without_defaults_of_added_keys(today | {"ema": 0.9}) != without_defaults_of_added_keys(old)


@pytest.mark.parametrize(
    "made_up", ['{"loss": 3}', '{"loss": ["dice"]}', '{"optimizer": 3}', '{"schedule": null}', "{}"]
)
def test_a_recipe_that_no_run_wrote_is_compared_as_it_is(made_up: str) -> None:
    assert without_defaults_of_added_keys(json.loads(made_up)) == json.loads(made_up)


def test_a_key_that_is_null_was_not_given() -> None:
    refuse_mixture("student_network", {"a": '{"encoder": "x"}', "b": '{"encoder": "x", "taps": null, "input": null}'})
    with pytest.raises(ValueError, match="different student_network"):
        refuse_mixture("student_network", {"a": '{"encoder": "x"}', "b": '{"encoder": "x", "taps": {"stem": "y"}}'})
