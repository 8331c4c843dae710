"""The JSON Schema of experiment files, for editors."""

from typing import Any

from harness.experiment import signatures
from harness.experiment.load import CLUSTER_KEYS, FILLED_IN
from harness.experiment.recipe import LOSSES, OPTIMIZERS, SCHEDULES
from harness.experiment.spec import Experiment
from harness.experiment.weights import FILLED_IN as FILLED_IN_OF_WEIGHTS

TORCHS = "^[A-Z]\\w*$"
"""Names of torch's classes; which there are depends on its version, so that only the loader knows them."""


def _recipe(definitions: dict[str, Any], outside: str) -> None:
    """The forms of the recipe's keys that are more than one type."""
    for key, own, needed in (("Optimizer", OPTIMIZERS, ["name", "lr"]), ("Schedule", SCHEDULES, ["name"])):
        section = definitions[key]
        ours = {name: value for name, value in section["properties"].items() if name != "parameters"}
        ours["name"] = {**ours["name"], "enum": list(own)}
        common = ("lr", "encoder_lr_factor", "warmup_steps")
        theirs = {name: value for name, value in ours.items() if name in common}
        theirs["name"] = {"type": "string", "pattern": TORCHS}
        definitions[key] = {
            "description": section["description"],
            "anyOf": [
                {"type": "object", "properties": ours, "additionalProperties": False},
                {"type": "object", "properties": theirs, "required": needed},
            ],
        }
    names = {"anyOf": [{"enum": list(LOSSES)}, {"type": "string", "pattern": outside}]}
    term = definitions["LossTerm"]["properties"]
    term["name"] = {**names, "default": "cross-entropy", "description": term["name"]["description"]}
    one = {"anyOf": [names, {"$ref": "#/$defs/LossTerm"}]}
    loss = definitions["Train"]["properties"]["loss"]
    loss["anyOf"] = [*one["anyOf"], {"type": "array", "items": one, "minItems": 1, "maxItems": 8}, {"type": "null"}]


def json_schema() -> dict[str, Any]:
    """JSON Schema of both forms of file, methods and datasets with their own parameters included."""
    schema = Experiment.model_json_schema()
    for key in FILLED_IN:
        schema["properties"].pop(key)
    methods = signatures.table("harness.distillers", "METHODS")
    outside = "^[A-Za-z_][\\w.]*:[A-Za-z_]\\w*$"
    forms: list[dict[str, Any]] = [{"enum": sorted(methods)}, {"type": "string", "pattern": outside}]
    forms += [
        {
            "type": "object",
            "properties": {name: {"anyOf": [e.parameters.model_json_schema(), {"type": "null"}]}},
            "required": [name],
            "additionalProperties": False,
        }
        for name, e in sorted(methods.items())
    ]
    elsewhere = {"patternProperties": {outside: {"type": ["object", "null"]}}, "additionalProperties": False}
    forms.append({"type": "object", "minProperties": 1, "maxProperties": 1, **elsewhere})
    forms.append({"$ref": "#/$defs/Method"})
    schema["$defs"]["OneMethod"] = {"anyOf": forms}
    one = {"$ref": "#/$defs/OneMethod"}
    schema["properties"]["methods"]["items"] = {"anyOf": [one, {"type": "array", "items": one, "minItems": 2}]}
    _recipe(schema["$defs"], outside)
    datasets = signatures.table("harness.datasets", "DATASETS")
    schema["$defs"]["Dataset"]["properties"]["name"]["anyOf"] = [
        {"enum": sorted(datasets)},
        {"type": "string", "pattern": outside},
    ]
    schema["$defs"]["Dataset"]["allOf"] = [
        {
            "if": {"properties": {"name": {"const": name}}},
            "then": {"properties": {"parameters": e.parameters.model_json_schema()}},
        }
        for name, e in sorted(datasets.items())
    ]
    for way in FILLED_IN_OF_WEIGHTS:
        schema["$defs"]["Weights"]["properties"].pop(way)
    for network, key in (("Network", "encoder_weights"), ("Teacher", "encoder_weights"), ("Teacher", "checkpoint")):
        schema["$defs"][network]["properties"][key]["anyOf"].insert(0, {"type": "string"})
    definitions = schema.pop("$defs") | {"Experiment": schema}
    plain = {"$ref": "#/$defs/Experiment"}
    metadata = {"type": "object", "properties": {"experiment": plain}, "required": ["experiment"]}
    cluster = {"properties": {"metadata": metadata}, "required": [*sorted(CLUSTER_KEYS), "metadata"]}
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "sstkd-bench experiment, by itself or in a Ray cluster file",
        "type": "object",
        "if": {"anyOf": [{"required": [key]} for key in sorted(CLUSTER_KEYS)]},
        "then": cluster,
        "else": plain,
        "$defs": definitions,
    }
