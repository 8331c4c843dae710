"""Puts into the wheel what the repository keeps beside the package: experiments, published figures and example rows.

`harness.files.shipped` finds them, in an installed package as in a checkout. Everything else is in pyproject.toml.
"""

import shutil
from pathlib import Path

from setuptools import setup
from setuptools.command.build_py import build_py

ROOT = Path(__file__).parent
SHIPPED = {
    "experiments": (ROOT / "experiments", ("*.yaml", "*.json", "*.md", "*.py")),
    "published": (ROOT / "results" / "published", ("*.csv",)),
    "examples": (
        ROOT / "results" / "examples",
        (
            *(f"*/{part}/*.parquet" for part in ("runs", "packs", "search")),
            *(f"*/{where}/{part}/*.parquet" for where in ("step_times", "search") for part in ("runs", "packs")),
        ),
    ),
}
"""By folder in `harness/shipped`: where the files are, and which."""


class BuildWithShipped(build_py):
    """Copies the files of `SHIPPED` when a wheel is built; an editable installation uses those of the checkout."""

    def run(self) -> None:
        """Build the package, then copy."""
        super().run()
        if self.editable_mode:
            return
        to = Path(self.build_lib) / "harness" / "shipped"
        shutil.rmtree(to, ignore_errors=True)  # of an earlier build
        for name, (folder, patterns) in SHIPPED.items():
            files = sorted(path for pattern in patterns for path in folder.glob(pattern) if path.is_file())
            if not files:
                raise SystemExit(f"{folder}: no files ({', '.join(patterns)}), which the wheel needs")
            for path in files:
                target = to / name / path.relative_to(folder)
                target.parent.mkdir(parents=True, exist_ok=True)
                shutil.copyfile(path, target)


setup(cmdclass={"build_py": BuildWithShipped})
