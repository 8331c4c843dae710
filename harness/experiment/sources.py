"""Source files: those of a module from outside, with what it imports from beside it, and what a file imports."""

import ast
import functools
import importlib.util
import sys
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
    """All Python files of a module's top-level package, or the single file; and those that they import.

    Of what they import the modules and packages count that lie beside it, or elsewhere on the Python path but are not
    installed. Installed packages, modules that are imported by a name made at run time, and files that are read as data
    do not count.

    Returns:
        Files by path below the folder that is on the Python path.
    """
    top = module.partition(".")[0]
    path = source_file(top) if "." not in module else _top_file(module, top)
    beside = path.parent.parent if path.name == "__init__.py" else path.parent
    found = _below(beside, top) if path.name == "__init__.py" else {path.name: path}
    if _installed(beside):
        return found
    waiting, seen = list(found.values()), set(sys.stdlib_module_names)
    while waiting:
        for top in {name.partition(".")[0] for name, _ in imported(waiting.pop())} - seen:
            seen.add(top)
            new = {} if is_ours(top) else _below(beside, top) or _elsewhere(top)
            waiting += [file for key, file in new.items() if key not in found]
            found = new | found
    return found


def _installed(folder: Path) -> bool:
    return not {"site-packages", "dist-packages"}.isdisjoint(folder.resolve().parts)


def _elsewhere(top: str) -> dict[str, Path]:
    """The Python files of a module or package that is on the Python path and not installed; none without one."""
    try:
        found = importlib.util.find_spec(top)
    except (ImportError, ValueError):
        return {}
    places = [] if found is None else [*(found.submodule_search_locations or []), found.origin or ""]
    if found is None or found.origin in ("built-in", "frozen") or not places[0] or _installed(Path(places[0])):
        return {}
    return _below(Path(places[0]).parent, top)


def _below(folder: Path, name: str) -> dict[str, Path]:
    """The Python files of a module or package in `folder`, by path below it; none if it is not there.

    As Python has it, a package goes before a module, and that before a folder without `__init__.py`, such as one of
    data. Hidden files and folders (`.ipynb_checkpoints`) do not count.
    """
    package, single = folder / name, folder / f"{name}.py"
    if single.is_file() and not (package / "__init__.py").is_file():
        return {single.name: single}
    files = package.rglob("*.py") if package.is_dir() else ()
    relative = {file.relative_to(folder): file for file in files}
    return {key.as_posix(): file for key, file in relative.items() if not any(p.startswith(".") for p in key.parts)}


def _top_file(module: str, top: str) -> Path:
    """The `__init__.py` of a package; a folder without one counts as if it had."""
    depth = module.count(".")
    file = source_file(module)
    folder = file.parent if file.name != "__init__.py" else file.parent.parent
    for _ in range(depth - 1):
        folder = folder.parent
    assert folder.name == top, (folder, top)
    return folder / "__init__.py"
