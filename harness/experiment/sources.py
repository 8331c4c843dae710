"""Source files: those of a module from outside, with what it imports from beside it, and what a file imports."""

import ast
import functools
from collections.abc import Iterator
from pathlib import Path

from harness.experiment.signatures import source_file


def is_ours(name: str) -> bool:
    """Whether a module is the project's own."""
    return name.partition(".")[0] in ("harness", "sstkd")


def imported(path: Path) -> Iterator[tuple[str, str]]:
    """Module and name of every import of a file; the module is resolved through the package's own imports."""
    try:
        tree = ast.parse(path.read_bytes())
    except (SyntaxError, ValueError):  # a template or such in a package from outside: it is imported by nobody
        return
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from ((alias.name, "") for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            for alias in node.names:
                yield _resolved(node.module, alias.name), alias.name


def _resolved(module: str, name: str) -> str:
    """The module that `from module import name` gets `name` from: itself, a module in it, or where it has it from."""
    if not is_ours(module):
        return module
    path = source_file(module)
    if path.name != "__init__.py":
        return module
    if (path.parent / f"{name}.py").is_file() or (path.parent / name / "__init__.py").is_file():
        return f"{module}.{name}"
    return _origins(module).get(name, module)


@functools.cache
def _origins(package: str) -> dict[str, str]:
    """Which module a package's `__init__` has each of its names from."""
    tree = ast.parse(source_file(package).read_text(encoding="utf-8"))
    return {
        alias.asname or alias.name: node.module
        for node in tree.body
        if isinstance(node, ast.ImportFrom) and node.module and is_ours(node.module)
        for alias in node.names
    }


def outside_files(module: str) -> dict[str, Path]:
    """All Python files of a module's top-level package, or the single file; and those beside it that they import."""
    top = module.partition(".")[0]
    path = source_file(top) if "." not in module else _top_file(module, top)
    beside = path.parent.parent if path.name == "__init__.py" else path.parent
    found = _below(beside, top) if path.name == "__init__.py" else {path.name: path}
    if beside.resolve().name in ("site-packages", "dist-packages"):
        return found
    waiting = list(found.values())
    while waiting:
        for name, _ in imported(waiting.pop()):
            new = {} if is_ours(name) else _below(beside, name.partition(".")[0])
            waiting += [file for key, file in new.items() if key not in found]
            found |= new
    return found


def _below(folder: Path, name: str) -> dict[str, Path]:
    """The Python files of a module or package in `folder`, by path below it; none if it is not there."""
    single = folder / f"{name}.py"
    files = (folder / name).rglob("*.py") if (folder / name).is_dir() else [single] if single.is_file() else []
    return {file.relative_to(folder).as_posix(): file for file in files}


def _top_file(module: str, top: str) -> Path:
    """The `__init__.py` of a package; a folder without one counts as if it had."""
    depth = module.count(".")
    file = source_file(module)
    folder = file.parent if file.name != "__init__.py" else file.parent.parent
    for _ in range(depth - 1):
        folder = folder.parent
    assert folder.name == top, (folder, top)
    return folder / "__init__.py"
