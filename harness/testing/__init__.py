"""Conformance tests: `check_distiller(MyDistiller)`, `check_network({...})`, `check_dataset("mydata:Data", FOLDER)`.

Each property is a function of a `Case` that raises AssertionError with the problem and its fix. Everything runs on the
CPU, on small synthetic networks, in well under a minute, mostly for dry runs of fifty real networks (once per process)
and a training with two processes.
"""

from collections.abc import Mapping
from typing import Any

from harness.distillers import Distiller
from harness.testing import construction, limits, ranks, steps, values
from harness.testing.case import Case, Property
from harness.testing.dataset import check_dataset
from harness.testing.network import check_network

PROPERTIES: dict[str, Property] = {
    "contract": construction.contract,
    "signature": construction.signature,
    "search-space": construction.search_space,
    "refusals": construction.refusals,
    "seed": construction.seed,
    "terms": values.terms,
    "gradients": values.gradients,
    "read-only": values.read_only,
    "one-stream": values.one_stream,
    "trained-apart": steps.trained_apart,
    "minimum": values.minimum,
    "ignored-pixels": values.ignored_pixels,
    "no-labels": limits.no_labels,
    "absent-classes": limits.absent_classes,
    "sizes": limits.sizes,
    "progress": limits.progress,
    "flat-maps": limits.flat_maps,
    "bfloat16": limits.bfloat16,
    "weighted": values.weighted,
    "needs-teacher": values.needs_teacher,
    "whole-step": steps.whole_step,
    "resumed": steps.resumed,
    "copies": steps.copies,
    "every-pair": construction.every_pair,
    "two-ranks": ranks.two_ranks,
}


def check_distiller(kind: type[Distiller], /, *, waived: Mapping[str, str] | None = None, **parameters: Any) -> None:
    """Check every property of a distiller, built-in or external.

    Args:
        kind: the class.
        waived: reasons for not checking something: {"minimum:adversarial": "the critic's score is not a distance"}.
            Keys are properties, or PROPERTY:TERM for `minimum` and `ignored-pixels`.
        parameters: hyper-parameters that differ from the defaults.

    Raises:
        AssertionError: the first property that does not hold, and how to fix it.
        ValueError: an unknown property in `waived`, or the method does not apply to the test pair.

    Example:
        >>> check_distiller(KD, temperature=4.0)
    """
    case = Case(kind, parameters, waived or {})
    for key, reason in case.waived.items():
        if key.partition(":")[0] not in PROPERTIES or not reason.strip():
            raise ValueError(
                f"waived[{key!r}] is {reason!r}; give a reason for one of {', '.join(PROPERTIES)}, or for PROPERTY:TERM"
            )
    for name in PROPERTIES:
        check_property(case, name)


def check_property(case: Case, name: str) -> None:
    """Check one property of PROPERTIES, unless the case waives it.

    Raises:
        AssertionError: it does not hold, or the distiller raised an error.
        ValueError: the method does not apply to the test pair.
    """
    if name in case.waived:
        return
    if name != "contract":
        case.applies()
    try:
        PROPERTIES[name](case)
    except AssertionError as error:
        raise AssertionError(f"{case.label}: property {name}: {error}") from error
    except Exception as error:
        raise AssertionError(f"{case.label}: property {name}: {type(error).__name__}: {error}") from error


__all__ = ["PROPERTIES", "Case", "check_dataset", "check_distiller", "check_network", "check_property"]
