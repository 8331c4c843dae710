"""The commands `sstkd-bench show ...`: pictures of what the methods see."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from harness.cli.common import answering

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from harness.training.texture import Networks
    from sstkd import CDM, DTIEM

show_app = typer.Typer(help="Draw what the methods see.", no_args_is_help=True, rich_markup_mode=None)


@show_app.command("texture")
def show_texture(
    image: Annotated[Path, typer.Argument(help="A photograph; reduced to at most 512 pixels a side.")],
    to: Annotated[Path, typer.Option("--to", help="Folder for the pictures.")] = Path("texture"),
    levels: Annotated[str, typer.Option(help="Depths k of 2^k directions per level, coarse to fine; 1 to 8.")] = "3,4",
    pyramid: Annotated[str, typer.Option(help="Low-pass pair: 9-7, 5-3, Burt, pkva.")] = "9-7",
    directional: Annotated[
        str,
        typer.Option(help="Directional filters: pkva, pkva6, pkva8, 9-7, 5-3, pkva-fir, pkva6-fir, pkva8-fir."),
    ] = "pkva",
    boundary: Annotated[str, typer.Option(help="periodic or toolbox.")] = "periodic",
    quantization_levels: Annotated[int, typer.Option(help="Levels of the intensity.")] = 32,
    results: Annotated[
        Path | None, typer.Option("--results", help="An experiment's results folder, e.g. results/quickstart.")
    ] = None,
    run: Annotated[str | None, typer.Option(help="A student's run in it: its textures beside its teacher's.")] = None,
) -> None:
    """Draw an image's subbands, frequency wedges and intensity levels.

    Subbands are the contourlet transform's; the levels come with their histograms. With --results and --run also what
    a student and its teacher make of the image, by the options of the run where it is one of sstkd.
    """
    with answering():
        depths = tuple(int(k) if k.strip().isdecimal() else 0 for k in levels.split(","))
        if not all(1 <= k <= 8 for k in depths):
            raise ValueError(f"--levels {levels}: write depths from 1 to 8, coarse to fine, such as 3,4")
        if (results is None) != (run is None):
            raise ValueError("--results and --run belong together: the folder, and the run in it")
        from harness.report.plots.texture import rendered
        from harness.training import texture
        from sstkd import CDM, DTIEM

        cdm = CDM(depths, pyramid, directional, boundary)  # type: ignore[arg-type]
        dtiem = DTIEM(quantization_levels)
        texture.check_folder(to)
        pixels = texture.read_image(image, cdm.multiple)
        pictures = image_pictures(pixels, depths, cdm, dtiem)
        if results is not None and run is not None:
            pictures["pair"] = network_picture(pixels, texture.networks(results, run), cdm, dtiem)
        drawn = {name: rendered(figure) for name, figure in pictures.items()}
        for path in texture.save(drawn, to):
            typer.echo(path)
        if run is None:
            typer.echo("Without --results and --run there are no networks to compare.", err=True)


def image_pictures(image: Any, depths: Sequence[int], cdm: "CDM", dtiem: "DTIEM") -> dict[str, "Figure"]:
    """Subbands, frequency wedges and levels of an image, by name.

    Args:
        image: (H, W, 3), both sides multiples of `cdm.multiple`.
        depths: of the transform's levels, coarse to fine.
        cdm: the transform.
        dtiem: the equalisation.
    """
    from harness.report.plots import texture as plots
    from harness.training import texture

    found = texture.subbands(image, depths, cdm)
    bands = [[band[0, 0].numpy() for band in level] for level in found.bands]
    low, transform = found.lowpass[0, 0].numpy(), texture.described(cdm)
    return {
        "subbands": plots.subband_picture(image, low, bands, transform),
        "wedges": plots.wedge_picture(texture.wedges(cdm), transform),
        "levels": plots.level_picture(image, texture.equalisation(texture.edges(image), dtiem)),
    }


def network_picture(image: Any, pair: "Networks", cdm: "CDM", dtiem: "DTIEM") -> "Figure":
    """What a student and its teacher make of an image; a run of sstkd overrules `cdm` and `dtiem`."""
    from harness.report.plots import texture as plots
    from harness.training import texture

    read = texture.reading(pair.run, cdm, dtiem)
    features = texture.low_level(pair, image, read)
    names = (f"student ({pair.run.method.label})", "teacher")
    energies = [texture.direction_energy(x, read.cdm) for x in features]
    maps = [texture.equalisation(x, read.dtiem).after for x in features]
    return plots.pair_picture(image, names, energies, maps, read)
