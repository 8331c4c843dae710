import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from harness.experiment import yaml_reader


def read(tmp_path, text):
    path = tmp_path / "e.yaml"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return yaml_reader.read(path)


def value(tmp_path, text):
    return read(tmp_path, f"x: {text}\n")[0]["x"]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("1e-3", 1e-3),
        ("-1E+2", -100.0),
        (".5", 0.5),
        ("5.", 5.0),
        ("6.02e23", 6.02e23),
        ("12", 12),
        ("-3", -3),
        ("+3", 3),
        ("010", 10),
        ("08", 8),
        ("0o17", 15),
        ("0x1F", 31),
        ("true", True),
        ("FALSE", False),
        ("~", None),
        ("null", None),
        ("", None),
        ("off", "off"),
        ("yes", "yes"),
        ("n", "n"),
        ("1:30", "1:30"),
        ("1_000", "1_000"),
        ("0b11", "0b11"),
        ("=", "="),
        ("2026-11-23", "2026-11-23"),
        ("2026-11-23 10:00:00", "2026-11-23 10:00:00"),
        ("1.2.3", "1.2.3"),
        ("e5", "e5"),
        ("'1'", "1"),
        ('"true"', "true"),
        ("[1, 2.0, a]", [1, 2.0, "a"]),
        ("{a: {b: []}}", {"a": {"b": []}}),
    ],
)
def test_scalars_are_those_of_yaml_1_2(tmp_path, text, expected):
    found = value(tmp_path, text)
    assert (found, type(found)) == (expected, type(expected))


@given(st.floats(allow_nan=False, allow_infinity=False) | st.integers() | st.booleans() | st.none())
def test_a_number_comes_back(number):
    data: dict = {}
    yaml_reader.override(data, f"x={'null' if number is None else str(number).lower()}")
    assert data["x"] == number and type(data["x"]) is type(number)


@given(st.text())
def test_any_text_is_data_or_a_value_error(text):
    data: dict = {}
    try:
        yaml_reader.override(data, f"x={text}")
    except ValueError as error:
        message = str(error)
    else:
        message = None
    assert (message is None) == ("x" in data)
    assert message is None or message.startswith("--set x=")


def test_every_key_and_item_has_its_line(tmp_path):
    text = "name: a\npairs:\n  - name: p\n    teacher:\n      steps: 3\n  - {name: q}\nseeds: [0,\n  1]\nempty:\n"
    data, lines = read(tmp_path, text)
    assert data == {
        "name": "a",
        "pairs": [{"name": "p", "teacher": {"steps": 3}}, {"name": "q"}],
        "seeds": [0, 1],
        "empty": None,
    }
    assert lines == {
        ("name",): 1,
        ("pairs",): 2,
        ("pairs", 0): 3,
        ("pairs", 0, "name"): 3,
        ("pairs", 0, "teacher"): 4,
        ("pairs", 0, "teacher", "steps"): 5,
        ("pairs", 1): 6,
        ("pairs", 1, "name"): 6,
        ("seeds",): 7,
        ("seeds", 0): 7,
        ("seeds", 1): 8,
        ("empty",): 9,
    }


def test_a_byte_order_mark_and_windows_lines_are_read(tmp_path):
    assert read(tmp_path, b"\xef\xbb\xbfname: a\r\nsteps: 3\r\n") == (
        {"name": "a", "steps": 3},
        {("name",): 1, ("steps",): 2},
    )


LAUGHS = "a: &a [x, x]\n" + "".join(
    f"{c}: &{c} [*{p}, *{p}]\n" for p, c in zip("abcdefghij", "bcdefghijk", strict=True)
)


@pytest.mark.parametrize(
    ("text", "line", "words"),
    [
        ("a: 1\nb: 2\na: 3\n", 3, "a: duplicate key (first on line 1). Delete one"),
        ("a:\n  b: {c: 1, c: 2}\n", 2, "a.b.c: duplicate key"),
        ("a: [1\n", 2, "not valid YAML"),
        ("a: 1\n\tb: 2\n", 2, "Indent with spaces"),
        ("a: 1\n---\na: 2\n", 2, "another document"),
        ("a: 1\nb: *x\n", 2, "aliases (*) are not read; write the value out, or quote"),
        ("a: &x [*x]\n", 1, "anchors (&)"),
        (LAUGHS, 1, "anchors (&)"),
        ("a: &x {b: 1}\nc:\n  <<: *x\n", 1, "anchors (&)"),
        ("a: 1\nb: !!python/object/apply:os.system [id]\n", 2, "tags are not read"),
        ("b: !!bool maybe\n", 1, "tags are not read"),
        ("b: !include other.yaml\n", 1, "tags are not read"),
        ("a: 1\n3: x\n", 2, "the key '3' is not text"),
        ("~: x\n", 1, "the key '~' is not text"),
        ("a: 1\n[a, b]: x\n", 2, "a key is a plain word"),
        ("? {a: 1}\n: x\n", 1, "a key is a plain word"),
        ("a: {b: [0, .nan]}\n", 1, "a.b.1: .nan is not a finite number"),
        ("a: 1\nb: -.inf\n", 2, "b: -.inf is not a finite number"),
        ("b: +.INF\n", 1, "b: +.INF is not a finite number"),
        ("b: .NaN\n", 1, "b: .NaN is not a finite number"),
        ("b: 1e999\n", 1, "b: 1e999 is not a finite number"),
        ("a: 1\nb: x\ay\n", 2, r"'\x07'"),
        (b"a: 1\nb: \xff\n", 2, "not UTF-8 text"),
    ],
    ids=range(23),
)
def test_a_mistake_is_named_with_its_line(tmp_path, text, line, words):
    with pytest.raises(ValueError) as error:
        read(tmp_path, text)
    assert str(error.value).startswith(f"{tmp_path / 'e.yaml'}:{line}: ")
    assert words in str(error.value)
    str(error.value).encode()  # can be printed


@pytest.mark.parametrize("text", ["", "# nothing\n", "- a\n- b\n", "word\n", "3\n", "---\n", "null\n"])
def test_what_is_no_mapping_is_refused(tmp_path, text):
    with pytest.raises(ValueError, match="is a mapping of keys"):
        read(tmp_path, text)


def test_a_merge_key_merges_nothing(tmp_path):
    assert read(tmp_path, "a: 1\n<<: {b: 2}\n")[0] == {"a": 1, "<<": {"b": 2}}


def test_a_file_that_cannot_be_read_is_named(tmp_path):
    for path, reason in ((tmp_path / "no.yaml", "No such file"), (tmp_path, "Is a directory")):
        with pytest.raises(ValueError, match=reason) as error:
            yaml_reader.read(path)
        assert str(error.value).startswith(f"{path}: cannot be read")


def test_the_loader_of_others_is_left_alone():
    assert yaml.safe_load("a: off") == {"a": False}


@pytest.mark.parametrize(
    ("assignment", "expected", "path"),
    [
        ("a=2", {"a": 2}, ("a",)),
        ("b.c.d=1e-3", {"b": {"c": {"d": 1e-3}}}, ("b", "c", "d")),
        ("l.1=x", {"l": [0, "x", {"k": 1}]}, ("l", 1)),
        ("l.2.k=[3, 4]", {"l": [0, 1, {"k": [3, 4]}]}, ("l", 2, "k")),
        ("n.x=1", {"n": {"x": 1}}, ("n", "x")),
        (" a =b=c", {"a": "b=c"}, ("a",)),
        ("a=", {"a": None}, ("a",)),
        ("b={c: {d: 1}}", {"b": {"c": {"d": 1}}}, ("b",)),
    ],
)
def test_set_changes_one_key(assignment, expected, path):
    data = {"a": 1, "l": [0, 1, {"k": 1}], "n": None}
    before = dict(data)
    assert yaml_reader.override(data, assignment) == path
    assert data == before | expected


@pytest.mark.parametrize(
    ("assignment", "words"),
    [
        ("a", "write it as key.path=value"),
        ("=1", "write it as key.path=value"),
        (" =1", "write it as key.path=value"),
        ("a..b=1", "write it as key.path=value"),
        (".a=1", "write it as key.path=value"),
        ("l.3=1", "l is a list of 3; '3' is not an index"),
        ("l.-1=1", "'-1' is not an index"),
        ("l.\u00b2=1", "is not an index"),
        ("l.x.y=1", "'x' is not an index"),
        ("a.b=1", "a is the plain value 1"),
        ("a=[", "not valid YAML"),
        ("a={b: 1, b: 2}", "duplicate key"),
        ("a=.nan", "not a finite number"),
        ("a=&x [*x]", "anchors"),
    ],
)
def test_set_says_what_is_wrong_with_it(assignment, words):
    data = {"a": 1, "l": [0, 1, 2]}
    with pytest.raises(ValueError) as error:
        yaml_reader.override(data, assignment)
    assert str(error.value).startswith(f"--set {assignment}: ") and words in str(error.value)
    assert data == {"a": 1, "l": [0, 1, 2]}


def test_variables_are_expanded(monkeypatch):
    monkeypatch.setenv("DATA_1", "/d")
    monkeypatch.setenv("TWICE", "${DATA_1}")
    assert yaml_reader.expand_variables("${DATA_1}/x/${DATA_1}") == "/d/x//d"
    assert yaml_reader.expand_variables("$DATA_1 {DATA_1}") == "$DATA_1 {DATA_1}"
    assert yaml_reader.expand_variables("${TWICE}") == "${DATA_1}"


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("${NOT_SET_ANYWHERE}", "NOT_SET_ANYWHERE is not set. Set it: export NOT_SET_ANYWHERE="),
        ("a/${EMPTY}", "EMPTY is empty"),
        ("${}", "is not an environment variable"),
        ("${1X}", "is not an environment variable"),
        ("${A:-b}", "is not an environment variable"),
        ("${HOME", "is not an environment variable"),
    ],
)
def test_variables_that_cannot_be_expanded(monkeypatch, text, words):
    monkeypatch.setenv("HOME", "/h")
    monkeypatch.setenv("EMPTY", "")
    with pytest.raises(ValueError) as error:
        yaml_reader.expand_variables(text)
    assert words in str(error.value)


def test_dotted():
    assert yaml_reader.dotted(("pairs", 0, "teacher")) == "pairs.0.teacher"
