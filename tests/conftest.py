"""Options of the tests; `--quick` runs what needs no torch; tests marked `gpu` are skipped where there is no CUDA device.

`--no-skips`, which CI gives, makes a failure of every other skip: a test that never runs proves nothing.
"""

import ctypes
import gc
import platform
import signal
import sys
from collections import Counter
from collections.abc import Generator, Iterator, Sequence
from importlib.abc import Loader, MetaPathFinder
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

HEAVY = ("torch", "torchvision", "timm", "segmentation_models_pytorch", "ray", "torchmetrics")


class NoHeavyImports(MetaPathFinder, Loader):
    """Refuses to import the packages that take seconds; their files are found, since a check reads torch's names there.

    A file that imports one is left out as a whole. A test that imports one while it runs fails: mark it `torch`.
    """

    running = False

    def find_spec(self, name: str, path: Sequence[str] | None = None, target: ModuleType | None = None) -> Any:
        if name.partition(".")[0] not in HEAVY:
            return None
        others = (finder.find_spec(name, path, target) for finder in sys.meta_path if finder is not self)
        found = next((spec for spec in others if spec is not None), None)
        if found is not None:
            found.loader = self
        return found

    def exec_module(self, module: ModuleType) -> None:
        if self.running:
            raise ImportError(f"{module.__name__} is imported by a test of `make quick`: mark the test `torch`")
        pytest.skip(f"imports {module.__name__}", allow_module_level=True)


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--quick", action="store_true", help="only tests that import none of " + ", ".join(HEAVY))
    parser.addoption(
        "--passed", metavar="FILE", help="--passed=FILE with --quick: note what passed here; without: leave it out"
    )
    parser.addoption("--no-skips", action="store_true", help="a test that is skipped fails, except for want of a GPU")
    parser.addoption("--kills", type=int, default=2, help="of each kind in tests/chaos")
    parser.addoption("--chaos-seed", type=int, help="where the kills of tests/chaos hit; the clock's when not given")
    parser.addoption("--distiller-oracles", metavar="DIR", help="folder with INDEX.json and the npz files it names")
    parser.addoption(
        "--contourlet-oracles", metavar="DIR", help="folder with pdfb_*.npz, dfb_*.npz, ... and inputs.npz"
    )


def pytest_configure(config: pytest.Config) -> None:
    # A shell's background jobs ignore SIGINT and so would every process the tests start, to interrupt it.
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)
    if config.getoption("quick"):
        sys.meta_path.insert(0, NoHeavyImports())


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    report = yield
    if item.get_closest_marker("gpu") is None and not hasattr(report, "wasxfail"):
        _failed_if_skipped(report, item.config)
    return report


@pytest.hookimpl(wrapper=True)
def pytest_make_collect_report(
    collector: pytest.Collector,
) -> Generator[None, pytest.CollectReport, pytest.CollectReport]:
    report = yield
    _failed_if_skipped(report, collector.config)
    return report


def _failed_if_skipped(report: pytest.TestReport | pytest.CollectReport, config: pytest.Config) -> None:
    if report.skipped and config.getoption("no_skips"):
        reason = report.longrepr[2] if isinstance(report.longrepr, tuple) else report.longrepr
        report.outcome, report.longrepr = "failed", f"skipped, which --no-skips does not allow: {reason}"


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    if config.getoption("quick"):
        _leave_out(config, items, [item for item in items if item.get_closest_marker("torch")])
        NoHeavyImports.running = True
        return
    if config.getoption("passed"):
        passed = set(Path(config.getoption("passed")).read_text().splitlines())
        _leave_out(config, items, [item for item in items if item.nodeid in passed])
    needs_gpu = [item for item in items if item.get_closest_marker("gpu")]
    if not needs_gpu:
        return
    import torch

    if not torch.cuda.is_available():
        for item in needs_gpu:
            item.add_marker(pytest.mark.skip(reason="needs a CUDA device"))


def pytest_collection_finish() -> None:
    # What is imported by now stays: every collection of garbage, of which each run makes one, would look through it.
    gc.collect()
    gc.freeze()


def _leave_out(config: pytest.Config, items: list[pytest.Item], which: list[pytest.Item]) -> None:
    config.hook.pytest_deselected(items=which)
    left_out = set(which)
    items[:] = [item for item in items if item not in left_out]


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """A table of the malformed inputs of tests/hostile: how many of each kind, and how many were not answered well."""
    config = terminalreporter.config
    if config.getoption("quick") and config.getoption("passed"):
        passed = [report.nodeid for report in terminalreporter.stats.get("passed", [])]
        Path(config.getoption("passed")).write_text("\n".join(passed))
    counts: dict[str, Counter[str]] = {}
    for outcome in ("passed", "failed", "error"):
        for report in terminalreporter.stats.get(outcome, []):
            folder, _, file = report.nodeid.partition("::")[0].rpartition("/")
            if folder == "tests/hostile" and (report.when == "call" or outcome == "error"):
                kind = file.removeprefix("test_").removesuffix(".py")
                counts.setdefault(kind, Counter())["clean" if outcome == "passed" else "not clean"] += 1
    if counts:
        terminalreporter.section("malformed inputs")
        for kind, found in sorted(counts.items()):
            terminalreporter.line(f"{kind:12} {found['clean']:5} clean {found['not clean']:5} not clean")
        total = sum(counts.values(), Counter[str]())
        terminalreporter.line(f"{'all':12} {total['clean']:5} clean {total['not clean']:5} not clean")


@pytest.fixture(scope="module", autouse=True)
def gives_memory_back() -> Iterator[None]:
    """After each file what its tests have kept: a process that trains keeps what it frees, and one that exports keeps
    graphs, but Ray ends workers of others when a machine's memory is used up."""
    yield
    if "torch._dynamo" in sys.modules:
        sys.modules["torch._dynamo"].reset()
    if "torch" in sys.modules:
        gc.collect()
        if platform.libc_ver()[0] == "glibc":
            ctypes.CDLL(None).malloc_trim(0)
