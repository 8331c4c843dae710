"""`pytest tests/benchmarks` runs and prints every bench_*.py; `pytest` and `pytest tests` leave them out."""

from collections.abc import Generator
from pathlib import Path

import pytest

HERE = Path(__file__).parent


def pytest_collect_file(file_path: Path, parent: pytest.Collector) -> pytest.Module | None:
    asked_for = any(Path(arg.split("::")[0]).resolve() == HERE for arg in parent.config.args)
    # A file that is itself named on the command line is collected by pytest.
    if not asked_for or not file_path.match("bench_*.py") or parent.session.isinitpath(file_path):
        return None
    return pytest.Module.from_parent(parent, path=file_path)


@pytest.hookimpl(wrapper=True, trylast=True)  # inside what starts the capture
def pytest_runtest_call(item: pytest.Item) -> Generator[None, object, object]:
    """What a benchmark prints is its result."""
    with item.config.pluginmanager.getplugin("capturemanager").global_and_fixture_disabled():
        return (yield)
