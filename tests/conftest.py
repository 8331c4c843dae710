"""Options that give tests/oracles other folders; tests marked `gpu` are skipped where there is no CUDA device."""

import signal

import pytest
import torch


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--kills", type=int, default=10, help="of each kind in tests/chaos")
    parser.addoption("--chaos-seed", type=int, help="where the kills of tests/chaos hit; the clock's when not given")
    parser.addoption("--distiller-oracles", metavar="DIR", help="folder with INDEX.json and the npz files it names")
    parser.addoption(
        "--contourlet-oracles", metavar="DIR", help="folder with pdfb_*.npz, dfb_*.npz, ... and inputs.npz"
    )


def pytest_configure() -> None:
    # A shell's background jobs ignore SIGINT and so would every process the tests start, to interrupt it.
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    if torch.cuda.is_available():
        return
    for item in items:
        if item.get_closest_marker("gpu"):
            item.add_marker(pytest.mark.skip(reason="needs a CUDA device"))
