import json
from typing import Literal

import pytest
from pydantic import ValidationError

from harness.experiment import signatures
from harness.experiment.method import Method

GOOD = '''
from typing import ClassVar, Literal

class Method:
    """A method."""

    paper: ClassVar[str] = "somebody"
    needs_teacher: ClassVar[bool] = False
    computed: ClassVar[float] = max(1, 2)

    def __init__(
        self, pair, *, needed: int, weight: float = 1, kind: Literal["a", "b"] = "a", sizes: tuple[int, ...] = (1, 2),
        range: tuple[float, float] = (0.1, -1), limit: float | None = None, on: bool = True, text: str = "x",
    ) -> None: ...

class Plain: ...

def loader(root, positional, *, size: int = 3): ...
'''


@pytest.fixture
def module(tmp_path, monkeypatch):
    """Write a module that can be found; importing it would fail."""
    monkeypatch.syspath_prepend(tmp_path)
    count = iter(range(100))

    def write(source, name=None):
        name = name or f"outside_{abs(hash(tmp_path))}_{next(count)}"
        path = tmp_path.joinpath(*name.split("."))
        path.parent.mkdir(parents=True, exist_ok=True)
        path.with_suffix(".py").write_text("raise RuntimeError('imported')\n" + source)
        return name

    return write


def build(entry, **given):
    return entry.parameters.model_validate_json(json.dumps(given))


def test_a_signature_becomes_a_strict_model(module):
    entry = signatures.entry(f"{module(GOOD)}:Method", "mine")
    assert entry.name == "mine"
    assert entry.constants == {"paper": "somebody", "needs_teacher": False}
    assert {k: f.annotation for k, f in entry.parameters.model_fields.items()} == {
        "needed": int,
        "weight": float,
        "kind": Literal["a", "b"],
        "sizes": tuple[int, ...],
        "range": tuple[float, float],
        "limit": float | None,
        "on": bool,
        "text": str,
    }
    assert dict(build(entry, needed=1, weight=2, sizes=[4])) == {
        "needed": 1,
        "weight": 2.0,
        "kind": "a",
        "sizes": (4,),
        "range": (0.1, -1.0),
        "limit": None,
        "on": True,
        "text": "x",
    }


@pytest.mark.parametrize(
    "given",
    [
        {},
        {"needed": 1.0},
        {"needed": "1"},
        {"needed": True},
        {"needed": 1, "typo": 1},
        {"needed": 1, "kind": "c"},
        {"needed": 1, "sizes": [1.5]},
        {"needed": 1, "range": [1.0]},
        {"needed": 1, "on": 1},
        {"needed": 1, "limit": "no"},
        {"needed": 1, "weight": float("nan")},
        {"needed": 1, "weight": float("inf")},
        {"needed": 1, "pair": 1},
    ],
    ids=str,
)
def test_the_model_refuses(module, given):
    entry = signatures.entry(f"{module(GOOD)}:Method")
    with pytest.raises(ValidationError):
        build(entry, **given)


def test_a_default_and_the_same_value_written_out_are_one(module):
    entry = signatures.entry(f"{module(GOOD)}:Method")
    implied, written = build(entry, needed=1), build(entry, needed=1, weight=1)
    assert implied.model_dump_json() == written.model_dump_json()


def test_only_keyword_parameters_count(module):
    name = module(GOOD)
    assert list(signatures.entry(f"{name}:loader").parameters.model_fields) == ["size"]
    assert list(signatures.entry(f"{name}:Plain").parameters.model_fields) == []


@pytest.mark.parametrize(
    ("parameter", "words"),
    [
        ("a=1", "parameter 'a'"),
        ("a=1", "has no annotation"),
        ("a: list[int] = 1", "'list[int]'; allowed: int, float"),
        ("a: 'int' = 1", "allowed: int, float"),
        ("a: dict = {}", "allowed: int, float"),
        ("a: int = max(1, 2)", "default that is not plain data"),
        ("_a: int = 1", "begins with an underscore"),
    ],
)
def test_a_signature_that_cannot_be_data_is_named(module, parameter, words):
    name = module(f"class M:\n    def __init__(self, pair, *, {parameter}) -> None: ...\n")
    with pytest.raises(ValueError) as error:
        signatures.entry(f"{name}:M")
    assert words in str(error.value) and f"{name}.py" in str(error.value)


@pytest.mark.parametrize(
    ("target", "words"),
    [
        ("nothing_of_this_name:X", "there is no package or module 'nothing_of_this_name'"),
        ("harness.nothing:X", "the package 'harness' has no module 'nothing'"),
        ("harness.distillers.kd:Nothing", "defines no class or function named 'Nothing'"),
        ("math:sqrt", "no Python source"),
        ("harness", "write it as package.module:Class"),
        (":X", "write it as package.module:Class"),
        ("harness:", "write it as package.module:Class"),
        ("a:b:c", "write it as package.module:Class"),
    ],
)
def test_a_target_that_is_not_there_is_named(target, words):
    with pytest.raises(ValueError) as error:
        signatures.entry(target)
    assert words in str(error.value) and target.partition(":")[0] in str(error.value)


def test_source_that_is_no_python_is_named(module):
    with pytest.raises(ValueError, match=r"cannot be read as Python source"):
        signatures.entry(f"{module('class M(:')}:M")


def test_a_module_inside_a_package_is_found_without_importing_it(module):
    module("", "outside_package.__init__")
    name = module(GOOD, "outside_package.below")
    assert signatures.entry(f"{name}:Method").constants["needs_teacher"] is False


def test_a_table_is_read_with_its_entries():
    methods = signatures.table("harness.distillers", "METHODS")
    assert {"none", "kd", "cwd", "sstkd"} <= methods.keys()
    assert methods["kd"].target == "harness.distillers.kd:KD"
    assert methods["none"].constants["needs_teacher"] is False
    assert "needs_teacher" not in methods["kd"].constants
    with pytest.raises(ValueError, match="has no table NOTHING"):
        signatures.table("harness.distillers", "NOTHING")


@pytest.mark.torch
@pytest.mark.parametrize(("package", "variable"), [("harness.distillers", "METHODS"), ("harness.datasets", "DATASETS")])
def test_what_is_read_from_text_is_what_python_sees(package, variable):
    """Every entry of the real tables, against the imported object."""
    import importlib
    import inspect

    real = getattr(importlib.import_module(package), variable)
    read = signatures.table(package, variable)
    assert list(read) == list(real)
    for name, thing in real.items():
        keywords = {
            k: p.default
            for k, p in inspect.signature(thing).parameters.items()
            if p.kind is inspect.Parameter.KEYWORD_ONLY
        }
        assert {k: f.default for k, f in read[name].parameters.model_fields.items()} == keywords
        assert read[name].target == f"{thing.__module__}:{thing.__name__}"
        read[name].parameters()  # the defaults are valid


def test_a_constant_needs_no_annotation(module):
    source = "class Method:\n    needs_teacher = False\n\n    def __init__(self, pair, *, weight: float = 1.0):\n        pass\n"
    assert signatures.entry(f"{module(source)}:Method").constants == {"needs_teacher": False}


ADDED = """
class Method:
    added = ("kind", "sizes")

    def __init__(self, pair, *, weight: float = 1, kind: str = "a", sizes: tuple[int, ...] = (1, 2)) -> None: ...

ADDED = ("even",)

def loader(root, *, size: int = 3, even: bool = True): ...
"""


def test_added_parameters_are_left_out_of_plain_data_at_their_defaults(module):
    name = module(ADDED)
    method, loader = (signatures.entry(f"{name}:{symbol}") for symbol in ("Method", "loader"))
    assert signatures.plain(method, build(method)) == {"weight": 1.0}
    assert signatures.plain(method, build(method, kind="a", sizes=[1, 2], weight=2)) == {"weight": 2.0}
    assert signatures.plain(method, build(method, sizes=[1])) == {"weight": 1.0, "sizes": [1]}
    assert signatures.plain(loader, build(loader)) == {"size": 3}
    assert signatures.plain(loader, build(loader, even=False)) == {"size": 3, "even": False}
    # What is left out is filled in again for the constructor.
    assert signatures.keywords(method, {"weight": 2.0}) == {"weight": 2.0, "kind": "a", "sizes": (1, 2)}


@pytest.mark.parametrize("wrong", ['("a",)', '{"nothing": "mosaics"}', '{"needed": "mosaics"}'])
def test_chosen_names_parameters_with_a_default(module, wrong):
    name = module(f"class M:\n    chosen = {wrong}\n\n    def __init__(self, pair, *, needed: int, a: int = 1): ...\n")
    with pytest.raises(ValueError, match=r"chosen is .*; allowed is \{parameter with a default: dataset\} of \['a'\]"):
        signatures.entry(f"{name}:M")


def test_what_a_row_leaves_out_at_its_default_may_be_chosen(module):
    name = module(
        'class M:\n    added = ("a",)\n    chosen = {"a": "mosaics", "b": "mosaics"}\n\n'
        "    def __init__(self, pair, *, a: float = 2.0, b: tuple[int, ...] = (3, 4)): ...\n"
    )
    assert Method(name=f"{name}:M", parameters={"b": [3, 4]}).chosen_on("mosaics") == ("a", "b")
    assert Method(name=f"{name}:M", parameters={"a": 1.0, "b": [3]}).chosen_on("mosaics") == ()
    assert Method(name=f"{name}:M", parameters={"b": [3, 4]}).chosen_on("streets") == ()


@pytest.mark.parametrize("wrong", ["nothing", "needed"])
def test_added_names_parameters_with_a_default(module, wrong):
    name = module(
        f"class M:\n    added = ({wrong!r},)\n\n    def __init__(self, pair, *, needed: int, a: int = 1): ...\n"
    )
    with pytest.raises(ValueError, match=rf"added names {wrong}; allowed are parameters with a default: \['a'\]"):
        signatures.entry(f"{name}:M")


@pytest.mark.parametrize("response", [{"weight": "other"}, {"temperature": "tau"}])
def test_response_names_parameters_and_a_weight(module, response):
    name = module(
        f"class M:\n    response = {response}\n\n    def __init__(self, pair, *, weight: float = 1, tau: float = 1): ...\n"
    )
    with pytest.raises(
        ValueError, match="its values are parameters of the method, and one of them is among its weights"
    ):
        signatures.entry(f"{name}:M")
