"""The model card beside an exported file: what it is, how it is loaded, what was measured, and what may be said of it.

Everything in it is from the run's row, the export's and the project's own comparison, which give the same bytes again.
"""

import json
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from huggingface_hub import EvalResult, ModelCard, ModelCardData

from harness.analysis.answer import longer
from harness.borders import label, markdown, one_line, without_folders, without_secrets
from harness.deployment.loading import code, takes
from harness.deployment.source import Source
from harness.experiment.spec import Network
from harness.experiment.weights import Weights
from harness.models.library import library_of

if TYPE_CHECKING:
    from harness.analysis.lines import Comparison, MethodRow
    from harness.analysis.tables import Block, Table

CARD = "README.md"
MISSING = "not measured"
LIBRARIES = {
    "safetensors": "pytorch",  # smp's own name would promise a config.json
    "smp": "segmentation-models-pytorch",
    "torch-export": "pytorch",
    "onnx": "onnx",
    "openvino": "openvino",
    "executorch": "executorch",
}
"""What a hub calls the library that loads a target."""
LONGER = {
    "equal seconds": "trained as long as the slowest method",
    "equal steps": "trained for as many steps as the recipe has",
}
"""By control of the student without distillation, how it is trained."""
_HOLE = "# license: to be filled in, see below; none is claimed"


def card_of(source: Source, exported: Mapping[str, Any], compare: "Callable[[Path], Table] | None" = None) -> str:
    """The text of README.md beside an exported file.

    Args:
        source: the run.
        exported: the export's row, by the columns of `harness.results.exports`; what is missing, None or no number is
            "not measured". mIoU in [0, 1], times in milliseconds.
        compare: from an experiment's results folder to its comparison, e.g. `quick_table` of its rows; where it is None
            or raises ValueError, the card says that methods were not compared.

    Raises:
        KeyError: `exported` has no target, or another one than those of the export.
    """
    block, line = _compared(source, compare)
    network, row = source.run.network, source.row
    name = f"{_named(network)} on {row['dataset']}"
    parts = [
        f"# {markdown(name)}",
        _what(source),
        f"## How it is loaded\n\n{markdown(takes(source, exported))}\n\n```python\n{code(source, exported)}\n```",
        f"## Classes\n\n{_classes(source)}",
        f"## Results\n\n{_results(source, block)}",
        f"## What may be said of it\n\n{_claims(exported, block, line)}",
        f"## How this file was judged\n\n{_judged(source, exported)}",
        f"## Limits\n\n{_limits(source, exported, block)}",
        f"## Licence: to be filled in\n\n{_licence(source)}",
    ]
    head = _head(source, exported).to_yaml()
    text = without_secrets(without_folders(f"---\n{head}\n{_HOLE}\n---\n\n" + "\n\n".join(parts) + "\n"))
    ModelCard(text)  # raises for a head that a hub could not read
    return text


def _head(source: Source, exported: Mapping[str, Any]) -> ModelCardData:
    row, target, taught = source.row, exported["target"], _taught(source)
    dataset = one_line(row["dataset"])
    found = [
        EvalResult(
            task_type="image-segmentation",
            dataset_type=label(dataset),
            dataset_name=dataset,
            dataset_split=exported["split"],
            dataset_args={"images": exported["images"]},
            metric_type="mean_iou",
            metric_name="mIoU of this file",
            metric_value=exported["miou"],
        )
    ]
    distilled = ["knowledge-distillation"] if taught else []
    return ModelCardData(
        library_name=LIBRARIES[target],
        pipeline_tag="image-segmentation",
        tags=["semantic-segmentation", *distilled, "sstkd-bench", target],
        metrics=["mean_iou"],
        model_name=label(f"{row['pair']}-{source.run.who}-{row['seed']}"),
        eval_results=found if _known(exported.get("miou")) else None,
    )


def _taught(source: Source) -> bool:
    return source.run.role == "student" and source.run.method.needs_teacher


def _named(network: Network) -> str:
    return network.architecture + (f" with {network.encoder}" if network.encoder else "")


def _what(source: Source) -> str:
    run, row = source.run, source.row
    if run.role == "teacher":
        how = "the pair's teacher"
    elif _taught(source):
        how = f"a student trained by the method {run.label}"
    else:
        how = f"the student without distillation ({run.label}), a control"
    teacher = f"Teacher: {_named(run.teacher)}, seed {run.teacher.seed}." if run.teacher and _taught(source) else ""
    lines = (
        f"A network for semantic segmentation, {how}: {_named(run.network)}, seed {row['seed']}, {row['steps']} steps.",
        teacher,
        f"Data: {row['dataset']}, {source.info.num_classes} classes. {source.info.note}",
        f"Experiment {row['experiment']}, pair {row['pair']}, run {row['run_id']}; by sstkd-bench.",
    )
    return "\n".join(f"- {markdown(text)}" for text in lines if text)


def _classes(source: Source) -> str:
    colours = ("#" + "".join(f"{value:02x}" for value in colour) for colour in source.info.palette)
    lines = zip(range(source.info.num_classes), source.info.class_names, colours, strict=True)
    return _table(("label", "class", "colour"), ((str(k), name, colour) for k, name, colour in lines))


def _table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    marks = "|---" * len(head) + "|"
    lines = ("| " + " | ".join(map(markdown, cells)) + " |" for cells in rows)
    return "\n".join(["| " + " | ".join(head) + " |", marks, *lines])


def _compared(source: Source, compare: "Callable[[Path], Table] | None") -> "tuple[Block | None, MethodRow | None]":
    """The pair's block and the run's line in it, where there are such."""
    try:
        blocks = () if compare is None else compare(source.directory).blocks
    except ValueError:  # rows that must not be compared, or cannot be read
        blocks = ()
    block = next((each for each in blocks if each.pair == source.row["pair"]), None)
    lines = () if block is None else block.methods
    run_id = source.row["run_id"]
    return block, next((each for each in lines if run_id in each.run_ids.values()), None)


def _results(source: Source, block: "Block | None") -> str:
    if block is None:
        return (
            "The methods of the experiment were not compared when this card was written; `sstkd-bench tables` compares "
            "them, or says why it does not."
        )
    own, mine = source.row["run_id"], " – this network's"
    rows = [
        (
            f"{line.label}{_role(line, block)}{mine if own in line.run_ids.values() else ''}",
            _score(line),
            str((line.miou.of or line.miou.n) if line.miou else 0),
            _difference(line, line.vs_none, "none"),
            _difference(line, line.vs_kd, "kd"),
        )
        for line in block.methods
    ]
    table = _table(("method", "mIoU", "n", "against none", "against kd"), rows)
    legend = (
        "mIoU in percent on val at the last step, by the experiment's own evaluation: mean ± standard deviation over n "
        "runs. Differences in percentage points, paired by seed, with 95 % intervals that hold together for all "
        "comparisons of the pair; ▲ ▼: the interval leaves 0 out."
    )
    words = f"{block.where}, {block.budget} per run, ruleset {block.rules}, protocol {block.protocol}. {block.headline}"
    return f"{markdown(words)}\n\n{table}\n\n{legend}"


def _role(line: "MethodRow", block: "Block") -> str:
    """What a line is a control of."""
    if line.name.control is not None:
        return f" (control: the same, {LONGER.get(line.name.control, line.name.control)})"
    if line.reference == "none":
        return " (control: the student without distillation)"
    if line.reference == "kd":
        return " (control: plain distillation)"
    of = [each.label for each in block.methods if each.control == line.label]
    return f" (control: the response term of {', '.join(of)})" if of else ""


def _score(line: "MethodRow") -> str:
    if line.miou is None:
        return line.absences or MISSING
    deviation = "" if line.miou.deviation is None else f" ± {line.miou.deviation:.2f}"
    return f"{line.miou.mean:.2f}{deviation}" + (f"; {line.absences}" if line.absences else "")


def _difference(line: "MethodRow", found: "Comparison | None", reference: str) -> str:
    if found is None:
        return "–" if line.reference == reference else MISSING
    return found.text if found.enough else f"too few runs (n={found.difference.n})"


def _claims(exported: Mapping[str, Any], block: "Block | None", line: "MethodRow | None") -> str:
    """What the intervals support, one item each."""
    if block is None:
        return "Nothing about methods: they were not compared."
    if line is None:
        return "The network is none of the lines above; they say what its students reach."
    texts = []
    against = [("none", line.vs_none), ("kd", line.vs_kd)]
    if line.control and line.control not in block.references.values():
        against.append((line.control, line.vs_control))
    for reference, found in against:
        if line.reference != reference:
            texts.append(f"Against {reference}: {_claim(found)}.")
    if line.reference != "none":
        texts += _longer(block, line)
    texts.append(f"{block.for_whom} Numbers are of the method's runs; this file is made from one of them.")
    if exported["calibration"] is not None:
        texts.append(
            "All of this is of the networks before quantisation; whether a difference is left in int8 was not compared "
            "here. What this file itself reaches stands below."
        )
    return "\n".join(f"- {markdown(text)}" for text in texts)


def _claim(found: "Comparison | None") -> str:
    if found is None:
        return MISSING
    d = found.difference
    if not found.enough:
        return f"too few runs for a claim (n={d.n})"
    if found.significant:
        return f"{found.text}; the interval leaves 0 out: a difference"
    if d.low is not None and d.high is not None and not d.low <= 0 <= d.high:
        return f"{found.text}; runs failed, so that no difference is claimed"
    return f"{found.text}; the interval holds 0: no difference is claimed"


def _longer(block: "Block", line: "MethodRow") -> list[str]:
    """How far the student without distillation comes that trains as long."""
    control = longer(block)
    if control is None or control.miou is None or line.miou is None:
        if block.budget_unit != "steps":
            return []
        return ["All methods have as many steps; how much longer training does was not measured."]
    text = (
        f"The control {control.label} has {control.miou.text}, {line.label} {line.miou.text}; no interval is computed "
        "for these two"
    )
    if control.miou.mean >= line.miou.mean:
        text += ". Longer training does as much: no gain by distillation is claimed"
    return [f"{text}."]


def _judged(source: Source, exported: Mapping[str, Any]) -> str:
    images, split, differs = exported.get("images"), exported["split"], exported.get("largest_difference")
    on = f"{images} of {len(source.data.val)} images of {split}" if images else MISSING
    calls, p90 = exported.get("latency_calls"), _said(exported.get("latency_ms_p90"), "{:.2f} ms")
    shape = "x".join(map(str, exported.get("latency_hw") or ()))
    threads = exported.get("threads")
    where = f"{threads} thread{'' if threads == 1 else 's'}, {exported['device']}" if threads else MISSING
    versions = json.loads(exported.get("versions") or "{}")
    int8 = exported["calibration"]
    every = " in every layer" if exported["every_layer"] else ", first and last layers float32"
    form = "float32" if int8 is None else f"int8{every}, calibrated on {int8} images of train"
    same = _said(exported.get("agreement"), "{:.3f} % of the pixels have one label", 100)
    if _known(differs):
        same += f"; a class score differs by {differs:.2g} at most"
    latency = _said(exported.get("latency_ms"), "{:.2f} ms")
    if latency != MISSING:
        latency += f" (median of {calls}; 90th percentile {p90})"
    rows = (
        ("target, numbers", f"{exported['target']}, {form}"),
        ("size", _said(exported.get("size_bytes"), "{:.1f} MiB", 2**-20)),
        ("mIoU of the file", f"{_said(exported.get('miou'), '{:.2f} %', 100)} on {on}, by one pass"),
        ("of the network as trained, likewise", _said(exported.get("student_miou"), "{:.2f} %", 100)),
        ("file and network", same),
        (f"{exported['batch'] or 1} x {shape or MISSING}", latency),
        ("the network in PyTorch", _said(exported.get("student_latency_ms"), "{:.2f} ms")),
        ("timed with", where),
        ("made by", ", ".join(f"{name} {number}" for name, number in sorted(versions.items())) or MISSING),
    )
    return _table(("", ""), rows)


def _limits(source: Source, exported: Mapping[str, Any], block: "Block | None") -> str:
    dataset, images = source.row["dataset"], exported.get("images")
    texts = [
        f"One dataset, {dataset}: how it does on other images was not measured. All mIoU are of its val split; "
        "the protocol lets hyper-parameters be selected on dev alone."
    ]
    if block is not None:
        runs = max((len(each.run_ids) for each in block.methods), default=0)
        texts.append(f"At most {runs} run{'' if runs == 1 else 's'} per method, trained on {block.devices}.")
        texts += [str(each) for each in (*block.findings, *block.caveats)]
    if images and images < len(source.data.val):
        texts.append(f"The file was judged on {images} images alone.")
    texts.append("Milliseconds are of the device and the threads that are named; on another device they differ.")
    return "\n".join(f"- {markdown(text)}" for text in texts)


def _licence(source: Source) -> str:
    run, library = source.run, library_of(source.run.network)
    encoder = _origin(run.network.encoder_weights)
    texts = [
        f"of the data ({source.row['dataset']})",
        f"of the encoder's weights that training began with ({encoder})",
        f"of the library that the network is from ({library})",
    ]
    if _taught(source) and run.teacher is not None:
        given = run.teacher.checkpoint or run.teacher.encoder_weights
        texts.append(f"of the weights that the teacher began with ({_origin(given)})")
    listed = "\n".join(f"- {markdown(text)}" for text in texts)
    return (
        "No licence is claimed for this file. Before it is published, look up the terms\n\n"
        f"{listed}\n\nand put what follows from them here and into `license:` at the top of this file."
    )


def _origin(weights: Weights | None) -> str:
    """Where weights are from, without a folder."""
    if weights is None:
        return "none: random numbers"
    if weights.source is not None:
        return weights.source.name
    return weights.tag or weights.hub or weights.package or f"a file with SHA-256 {(weights.sha256 or MISSING)[:12]}"


def _known(value: Any) -> bool:
    return value is not None and math.isfinite(value)


def _said(value: Any, form: str, times: float = 1) -> str:
    return form.format(times * value) if _known(value) else MISSING
