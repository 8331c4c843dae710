"""The reference pages of docs/, which are made from the code.

`python -m tests.support.reference` writes all of them anew; tests/cli/test_reference.py compares them with the code.
"""

from collections.abc import Callable
from pathlib import Path

from tests.support import reference_commands, reference_keys, reference_methods

DOCS = Path(__file__).parents[2] / "docs"
COMMAND = "python -m tests.support.reference"
PAGES: dict[str, Callable[[], str]] = {
    "reference-methods.md": reference_methods.page,
    "reference-keys.md": reference_keys.page,
    "reference-commands.md": reference_commands.page,
}

if __name__ == "__main__":
    for name, page in PAGES.items():
        (DOCS / name).write_text(page())
        print(f"docs/{name}")
