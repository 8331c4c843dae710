"""What may be compared: rows that were made before a key existed, with rows that have it at its default."""

import json
from typing import Any

import pytest

from harness.analysis.comparable import refuse_mixture
from harness.experiment.recipe import Train, without_defaults_of_added_keys

OLD: dict[str, Any] = {
    "accumulate": 1,
    "augment": {
        "class_cap": 1.0, "crop_hw": [64, 64], "flip": True, "hue": 0.0, "jitter": 0.0, "saturation": 0.0,
        "scale": [1.0, 1.0], "scale_step": 0.0,
    },
    "auxiliary_weight": 0.4,
    "batch_size": 8,
    "channels_last": True,
    "checkpoint_every": None,
    "clip_norm": None,
    "compile": False,
    "eval_batch_size": 16,
    "eval_every": 100,
    "evaluation": {
        "boundary": None, "flip": False, "per_image": False, "scales": [1.0], "stride_hw": None, "window_hw": None,
    },
    "normalize": "dataset",
    "optimizer": {"betas": [0.9, 0.999], "lr": 0.003, "momentum": 0.9, "name": "adamw", "weight_decay": 0.01},
    "precision": "fp32",
    "schedule": {"name": "poly", "power": 0.9, "warmup_steps": 50},
    "steps": 400,
    "sync_batchnorm": True,
}  # fmt: skip
"""The recipe of a row of version 0.1.0, from before `loss`, `ema` and `gradients_every`."""


def test_a_recipe_of_an_earlier_release_equals_the_same_one_of_today() -> None:
    today = json.loads(Train.model_validate_json(json.dumps(OLD)).model_dump_json())
    assert today.keys() > OLD.keys()
    assert without_defaults_of_added_keys(OLD) == without_defaults_of_added_keys(today)
    assert without_defaults_of_added_keys(today | {"ema": 0.9}) != without_defaults_of_added_keys(OLD)


@pytest.mark.parametrize(
    "made_up", ['{"loss": 3}', '{"loss": ["dice"]}', '{"optimizer": 3}', '{"schedule": null}', "{}"]
)
def test_a_recipe_that_no_run_wrote_is_compared_as_it_is(made_up: str) -> None:
    assert without_defaults_of_added_keys(json.loads(made_up)) == json.loads(made_up)


def test_a_key_that_is_null_was_not_given() -> None:
    refuse_mixture("student_network", {"a": '{"encoder": "x"}', "b": '{"encoder": "x", "taps": null, "input": null}'})
    with pytest.raises(ValueError, match="different student_network"):
        refuse_mixture("student_network", {"a": '{"encoder": "x"}', "b": '{"encoder": "x", "taps": {"stem": "y"}}'})
