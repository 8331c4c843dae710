"""Names and parameters of a table of classes or functions, read from source text without importing it.

`METHODS` and `DATASETS` live beside code that imports torch. The experiment file's schema, `check` and `--help` must
not wait for that, and must not run third-party code only to validate a file, so names, hyper-parameters, types and
defaults are parsed from the signature with `ast`. A hyper-parameter is thereby declared once, in the signature.
"""

import ast
import contextlib
import functools
import importlib.util
import json
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, create_model

INT64 = (-(2**63), 2**63 - 1)
"""Bounds of an integer without others."""
_PLAIN: dict[str, Any] = {"int": int, "float": float, "bool": bool, "str": str}


@dataclass(frozen=True)
class Entry:
    """One row of a table: where it is defined and the strict model of its keyword-only parameters."""

    name: str
    target: str  # "package.module:Name"
    parameters: type[BaseModel]
    constants: dict[str, Any]  # class attributes with a literal value, e.g. needs_teacher; a function's `added`


@functools.cache
def table(package: str, variable: str) -> dict[str, Entry]:
    """Read `variable = {"name": Name, ...}` from a package's __init__.py together with each Name's signature.

    Raises:
        ValueError: the package, the variable or a name's import cannot be found.
    """
    path = source_file(package)
    tree = _parsed(path)
    imported = {
        alias.asname or alias.name: f"{node.module}:{alias.name}"
        for node in tree.body
        if isinstance(node, ast.ImportFrom) and node.module
        for alias in node.names
    }
    for node in tree.body:
        value = _assigned(node, variable)
        if isinstance(value, ast.Dict):
            names = [ast.literal_eval(key) for key in value.keys if key is not None]
            return {
                name: entry(imported[item.id], name)
                for name, item in zip(names, value.values, strict=True)
                if isinstance(item, ast.Name)
            }
    raise ValueError(f"{path}: has no table {variable} = {{...}}")


@functools.cache
def entry(target: str, name: str | None = None) -> Entry:
    """Read one class's or function's keyword-only parameters.

    Args:
        target: "package.module:Name".
        name: how the experiment file calls it; the target itself when None.

    Raises:
        ValueError: the module or the name does not exist, a parameter's annotation or default is not plain data, or
            `added` names no parameter with a default.
    """
    if not re.fullmatch(r"[^\W\d]\w*(?:\.[^\W\d]\w*)*:[^\W\d]\w*", target):
        raise ValueError(f"{target}: write it as package.module:Class")
    module, _, symbol = target.partition(":")
    path = source_file(module)
    tree = _parsed(path)
    for node in tree.body:
        if isinstance(node, ast.FunctionDef) and node.name == symbol:
            limits = _literal(tree, "LIMITS", {})
            constants = {"added": added} if (added := _literal(tree, "ADDED", ())) else {}
            return _entry(name, target, _model(node, target, path, limits), constants)
        if isinstance(node, ast.ClassDef) and node.name == symbol:
            constants = {}
            init = _init(node, tree)
            for item in node.body:
                targets = item.targets if isinstance(item, ast.Assign) else [getattr(item, "target", None)]
                value = getattr(item, "value", None)
                for named in targets:
                    if isinstance(named, ast.Name) and value is not None:
                        # Expressions are skipped: a spec needs only plain data.
                        with contextlib.suppress(ValueError):
                            constants[named.id] = ast.literal_eval(value)
            return _entry(name, target, _model(init, target, path, constants.get("limits", {})), constants)
    raise ValueError(
        f"{target}: {path} defines no class or function named {symbol!r}; name the module whose file has its "
        "`class` or `def`"
    )


def documentation(target: str) -> tuple[str, str]:
    """The docstrings of a class's or function's file, and its own; empty where there is none.

    Args:
        target: "package.module:Name".

    Raises:
        ValueError: the module cannot be found or read.
    """
    module, _, symbol = target.partition(":")
    tree = _parsed(source_file(module))
    own = next((n for n in tree.body if isinstance(n, ast.ClassDef | ast.FunctionDef) and n.name == symbol), None)
    return ast.get_docstring(tree) or "", (ast.get_docstring(own) or "") if own is not None else ""


def _init(node: ast.ClassDef, tree: ast.Module) -> ast.FunctionDef | None:
    """A class's own `__init__`, or that of the first of its bases in the same file."""
    classes = {item.name: item for item in tree.body if isinstance(item, ast.ClassDef)}
    seen: set[str] = set()
    while node.name not in seen:
        seen.add(node.name)
        for item in node.body:
            if isinstance(item, ast.FunctionDef) and item.name == "__init__":
                return item
        node = next(
            (classes[base.id] for base in node.bases if isinstance(base, ast.Name) and base.id in classes), node
        )
    return None


def _entry(name: str | None, target: str, parameters: type[BaseModel], constants: dict[str, Any]) -> Entry:
    optional = [key for key, field in parameters.model_fields.items() if not field.is_required()]
    wrong = [key for key in constants.get("added", ()) if key not in optional]
    if wrong:
        raise ValueError(f"{target}: added names {', '.join(wrong)}; allowed are parameters with a default: {optional}")
    chosen = constants.get("chosen", {})
    if not isinstance(chosen, dict) or not set(chosen) <= set(optional):
        raise ValueError(
            f"{target}: chosen is {chosen}; allowed is {{parameter with a default: dataset}} of {optional}"
        )
    response = list(constants.get("response", {}).values())
    weights = constants.get("weights", ("weight",))
    if response and not (set(response) <= parameters.model_fields.keys() and set(response) & set(weights)):
        raise ValueError(
            f"{target}: response names {', '.join(map(str, response))}; its values are parameters of the method, and "
            f"one of them is among its weights, {', '.join(weights)}"
        )
    return Entry(name or target, target, parameters, constants)


def keywords(found: Entry, parameters: dict[str, Any]) -> dict[str, Any]:
    """Parameters with the types of the signature (JSON has no tuples)."""
    return dict(found.parameters.model_validate_json(json.dumps(parameters)))


def plain(found: Entry, parameters: BaseModel) -> dict[str, Any]:
    """Parameters as plain data: what a run's identity and its row contain.

    Those that `added` names are left out at their defaults: they came after the first rows, which lack them.
    """
    values = parameters.model_dump(mode="json")
    for name in found.constants.get("added", ()):
        default = found.parameters.model_fields[name].default
        if values[name] == json.loads(json.dumps(default)):
            del values[name]
    return values


def source_file(module: str) -> Path:
    """The file of a module, found without importing any package of it.

    Raises:
        ValueError: there is no such module.
    """
    top, *rest = module.split(".")
    try:
        found = importlib.util.find_spec(top)
    except ValueError:  # __main__ has no spec
        found = None
    if found is None:
        raise ValueError(
            f"{module}: there is no package or module {top!r} on the Python path; "
            "install it, or put its folder there: PYTHONPATH=FOLDER"
        )
    if not rest and found.origin is not None and found.origin.endswith(".py"):
        return Path(found.origin)
    for root in found.submodule_search_locations or []:
        base = Path(root).joinpath(*rest)
        for path in (base.parent / f"{base.name}.py", base / "__init__.py"):
            if rest and path.is_file():
                return path
    what = f"the package {top!r} has no module {'.'.join(rest)!r}" if rest else f"{top!r} has no Python source file"
    raise ValueError(f"{module}: {what}")


def _parsed(path: Path) -> ast.Module:
    try:
        return ast.parse(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, SyntaxError, ValueError) as error:
        raise ValueError(f"{path}: cannot be read as Python source ({error})") from None


def _assigned(node: ast.stmt, variable: str) -> ast.expr | None:
    if isinstance(node, ast.Assign) and any(isinstance(t, ast.Name) and t.id == variable for t in node.targets):
        return node.value
    if isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name) and node.target.id == variable:
        return node.value
    return None


def _literal(tree: ast.Module, variable: str, otherwise: Any) -> Any:
    """The value of a module's constant, which is plain data."""
    found = (_assigned(statement, variable) for statement in tree.body)
    return next((ast.literal_eval(value) for value in found if value), otherwise)


def _model(
    function: ast.FunctionDef | None, target: str, path: Path, limits: dict[str, tuple[float, float]]
) -> type[BaseModel]:
    """The strict model of the keyword-only parameters; `limits` are the lowest and highest values of some."""
    fields: dict[str, Any] = {}
    arguments = [] if function is None else list(zip(function.args.kwonlyargs, function.args.kw_defaults, strict=True))
    for argument, default in arguments:
        where = f"{path}:{argument.lineno}: parameter {argument.arg!r} of {target}"
        if argument.arg.startswith("_"):
            raise ValueError(f"{where} begins with an underscore; a key of an experiment file does not")
        if argument.annotation is None:
            raise ValueError(f"{where} has no annotation; write one of int, float, bool, str, Literal, tuple, X | None")
        kind = _type(argument.annotation, where)
        if kind is int or argument.arg in limits:
            low, high = limits.get(argument.arg, INT64)
            kind = Annotated[kind, Field(ge=low, le=high)]
        if default is None:
            fields[argument.arg] = (kind, ...)
            continue
        try:
            fields[argument.arg] = (kind, ast.literal_eval(default))
        except ValueError:
            raise ValueError(f"{where} has a default that is not plain data") from None
    # Defaults are validated too: `weight: float = 1` is 1.0 whether or not a file says `weight: 1`.
    config = ConfigDict(extra="forbid", frozen=True, strict=True, allow_inf_nan=False, validate_default=True)
    return create_model(target.replace(":", "."), __config__=config, **fields)


def _type(node: ast.expr, where: str) -> Any:
    """The type of a plain annotation, built without evaluating anything."""
    if isinstance(node, ast.Name) and node.id in _PLAIN:
        return _PLAIN[node.id]
    if isinstance(node, ast.Constant) and node.value is None:
        return None
    if isinstance(node, ast.BinOp) and isinstance(node.op, ast.BitOr):
        return _type(node.left, where) | _type(node.right, where)
    if isinstance(node, ast.Subscript) and isinstance(node.value, ast.Name):
        items = list(node.slice.elts) if isinstance(node.slice, ast.Tuple) else [node.slice]
        if node.value.id == "Literal":
            return Literal[tuple(ast.literal_eval(item) for item in items)]
        if node.value.id == "tuple":
            return tuple[tuple(... if _is_ellipsis(item) else _type(item, where) for item in items)]  # type: ignore[misc]
    raise ValueError(
        f"{where} has the annotation {ast.unparse(node)!r}; allowed: int, float, bool, str, Literal, tuple, X | None"
    )


def _is_ellipsis(node: ast.expr) -> bool:
    return isinstance(node, ast.Constant) and node.value is ...
