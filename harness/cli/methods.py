"""The command `sstkd-bench methods`: what methods there are, and which apply to a pair."""

from typing import Annotated

import typer

from harness.cli.common import answering


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

    The list has loss terms, hyper-parameters, extra parameters and cost, and says which methods apply to a pair.
    """
    with answering():
        if name is not None:
            from harness.experiment.explain import explain

            typer.echo(explain(name))
            return
        from harness.training import catalogue

        columns = [
            "method",
            "terms",
            "extra parameters",
            "buffers MB",
            "step / none",
            "hyper-parameters [range of an untied search]",
            "paper",
        ]
        from harness.report.console import print_columns

        lines = []
        for facts in catalogue.describe(*catalogue.networks(pair), classes, side, measure):
            ratio = "-" if facts.relative_step is None else f"{facts.relative_step:.2f}"
            cells = [", ".join(facts.terms) or "-", f"{facts.extra_parameters:,}", f"{facts.buffers_mb:.1f}", ratio]
            if facts.reason is not None:
                cells = [f"does not apply: {facts.reason}", "-", "-", "-"]
            note = f"; {facts.caveat}" if facts.caveat else ""
            lines.append([facts.name, *cells, ", ".join(facts.hyperparameters) or "-", (facts.paper or "-") + note])
        print_columns(columns, lines, right=("extra parameters", "buffers MB", "step / none"))
