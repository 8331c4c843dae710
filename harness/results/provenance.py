"""The code and package versions that produced a row."""

import functools
import subprocess
from importlib.metadata import version
from pathlib import Path

import harness

PACKAGES = (
    "torch",
    "torchvision",
    "ray",
    "timm",
    "segmentation-models-pytorch",
    "numpy",
    "pyarrow",
    "opencv-python-headless",
    "pillow",
)


@functools.cache
def versions() -> dict[str, str]:
    """Installed versions of the packages that the numbers depend on, by name."""
    return {name: version(name) for name in PACKAGES}


@functools.cache
def code_version() -> str:
    """`VERSION+COMMIT`, with `.dirty` when the checkout has changes; VERSION alone outside a git checkout."""
    root = Path(harness.__file__).parent.parent
    if not (root / ".git").exists():
        return harness.__version__

    def git(*arguments: str) -> str:
        try:
            done = subprocess.run(["git", "-C", str(root), *arguments], capture_output=True, text=True, check=False)
        except OSError:  # git is not installed here
            return ""
        return done.stdout.strip()

    commit = git("rev-parse", "--short=12", "HEAD")
    dirty = ".dirty" if git("status", "--porcelain", "--untracked-files=no") else ""
    return f"{harness.__version__}+{commit or 'uncommitted'}{dirty}"
