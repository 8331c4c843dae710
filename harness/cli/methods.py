"""The command `sstkd-bench methods`: what methods there are, and which apply to a pair."""

from typing import Annotated

import typer

from harness.cli.common import answering

LEGEND = """\
weights: trained for the loss alone; MB: its buffers; step / none: time of a step, of that without distillation
equation, parameters, ranges and source of one: sstkd-bench methods NAME"""


def methods(
    name: Annotated[str | None, typer.Argument(help="One method: print its equation, parameters and source.")] = None,
    pair: Annotated[
        str,
        typer.Option(
            help="TEACHER:STUDENT, each ARCHITECTURE/ENCODER; or an experiment file, of which the first pair is used."
        ),
    ] = "unet/tu-resnet18d:unet/tu-resnet10t",
    classes: Annotated[int, typer.Option(min=2, help="Number of classes.")] = 19,
    side: Annotated[int, typer.Option(help="Height and width of the random images used for terms and times.")] = 128,
    measure: Annotated[bool, typer.Option(help="Time a few steps of each method on this machine.")] = True,
) -> None:
    """List the methods, or explain one.

    The list has loss terms, extra weights and cost, and says which methods apply to a pair.
    """
    with answering():
        if name is not None:
            from harness.experiment.explain import explain

            typer.echo(explain(name))
            return
        from harness.report.console import print_columns
        from harness.training import catalogue

        lines, apart = [], []
        for facts in catalogue.describe(*catalogue.networks(pair), classes, side, measure):
            if facts.reason is not None:
                apart.append(f"{facts.name} does not apply: {facts.reason}")
                continue
            ratio = "-" if facts.relative_step is None else f"{facts.relative_step:.2f}"
            terms = ", ".join(facts.terms) or "-"
            lines.append([facts.name, terms, f"{facts.extra_parameters:,}", f"{facts.buffers_mb:.1f}", ratio])
        right = ("weights", "MB", "step / none")
        print_columns(["method", "terms", *right], lines, right)
        for line in (*apart, LEGEND):
            typer.echo(line)
