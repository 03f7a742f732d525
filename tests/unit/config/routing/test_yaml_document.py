import json
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vllama_pool.config.routing import yaml_document
from vllama_pool.config.routing.places import Place, Problem, dotted
from vllama_pool.config.routing.yaml_document import MAX_BYTES, Document


def parse(data: bytes, **environment: str) -> Document:
    return yaml_document.parse(data, "f.yaml", environment)


def at(line: int, column: int) -> Place:
    return Place("f.yaml", line, column)


def only_problem(text: str | bytes) -> Problem:
    document = parse(text.encode() if isinstance(text, str) else text)
    assert len(document.problems) == 1, document.problems
    return document.problems[0]


def test_positions_of_keys_and_values_are_recorded() -> None:
    document = parse(b"models:\n  x:\n    serve: [a, {model: b}]\nworkers:\n  - url: u\n")
    assert document.value == {"models": {"x": {"serve": ["a", {"model": "b"}]}}, "workers": [{"url": "u"}]}
    assert document.problems == []
    assert document.key_place(("models", "x")) == at(2, 3)
    assert document.value_place(("models", "x", "serve")) == at(3, 12)
    assert document.value_place(("models", "x", "serve", 1, "model")) == at(3, 24)
    assert document.key_place(("workers", 0)) == at(5, 5)
    assert document.key_place(("workers", 0, "missing")) == at(5, 5)


@pytest.mark.parametrize("text", ["", "# nothing\n", "---\n", "\ufeff"])
def test_an_empty_file_has_no_value(text: str) -> None:
    document = parse(text.encode())
    assert document.value is None
    assert document.problems == []


@pytest.mark.parametrize(
    ("scalar", "value"),
    [
        ("1", 1),
        ("1.5", 1.5),
        ("true", True),
        ("null", None),
        ("~", None),
        ("1b", "1b"),
        ("12:30", "12:30"),
        ("1:30.5", "1:30.5"),
        ("2024-01-01", "2024-01-01"),
        ("2024-99-99", "2024-99-99"),
        ("'1'", "1"),
        ("!!str 1", "1"),
        ("!!float 1", 1.0),
        ("!!int '0123'", 123),
        ("=", "="),
        ("5e-2", 0.05),
        ("1e3", 1000.0),
        ("1E+3", 1000.0),
        ("-.5", -0.5),
        ("5.", 5.0),
        ("1.e2", 100.0),
        ("0123", 123),
        ("-010", -10),
        ("08", 8),
        ("+1", 1),
        ("0o17", 15),
        ("0x1F", 31),
        (".inf", math.inf),
        ("-.INF", -math.inf),
        ("1e999", math.inf),
        ("True", True),
        ("FALSE", False),
        ("", None),
        ("NULL", None),
        ("1_000", "1_000"),
        ("0b11", "0b11"),
        ("0o8", "0o8"),
        ("-0x1", "-0x1"),
        ("12:30:45", "12:30:45"),
        (".", "."),
        ("e3", "e3"),
        ("1e", "1e"),
        ("inf", "inf"),
        ("yes", "yes"),
        ("No", "No"),
        ("on", "on"),
        ("OFF", "OFF"),
        ("tRue", "tRue"),
        ("1.2.3", "1.2.3"),
        ("2001-12-14t21:59:43.10-05:00", "2001-12-14t21:59:43.10-05:00"),
    ],
)
def test_scalars_have_the_values_of_yaml_1_2(scalar: str, value: object) -> None:
    document = parse(f"k: {scalar}\n".encode())
    assert document.value == {"k": value}
    assert type(document.value["k"]) is type(value)
    assert document.problems == []


def test_not_a_number_is_a_number() -> None:
    assert math.isnan(parse(b"k: .NaN\n").value["k"])


@given(st.integers() | st.floats(allow_nan=False))
def test_numbers_are_read_as_json_reads_them(number: float) -> None:
    text = json.dumps(number).replace("Infinity", ".inf")
    value = parse(f"k: {text}\n".encode()).value["k"]
    assert (value, type(value)) == (number, type(number))


@pytest.mark.parametrize("key", ["on", "yes", "1_000", "12:30", "2024-01-01"])
def test_keys_that_are_texts_in_yaml_1_2_need_no_quotes(key: str) -> None:
    assert parse(f"{key}: x\n".encode()).value == {key: "x"}


@pytest.mark.parametrize(
    ("text", "line", "what"),
    [
        ("a: 1\na: 2\n", 2, "written twice, first in line 1"),
        ("a:\n\tb: 1\n", 2, "a tab; indent with spaces"),
        ("a: b: c\n", 1, "check the indentation"),
        ("a: [1\nb: 2\n", 2, "close the '[' of line 1"),
        ("a: 1\n---\nb: 2\n", 2, "a second document begins"),
        ("a: *nowhere\n", 1, "no anchor '&nowhere' above it in this file"),
        ("a: !!python/object/apply:os.system ['true']\n", 1, "the tag !!python/object/apply:os.system"),
        ("a: !thing {b: 1}\n", 1, "the tag !thing is not supported"),
        ("a: !secret x\n", 1, "the tag !secret is not supported"),
        ("a: !!binary aGk=\n", 1, "the tag !!binary is not supported"),
        ("ok: 1\n3.2: x\n", 2, 'the key 3.2 is read as the number 3.2; put it in quotes: "3.2"'),
        ("true: x\n", 1, "the key true is read as the value true"),
        ("0123: x\n", 1, "the key 0123 is read as the number 123"),
        ("a: !!bool yes\n", 1, "yes is not a usable truth value"),
        ("a: !!int 1_000\n", 1, "1_000 is not a usable number"),
        ("? [a]\n: x\n", 1, "a list or mapping cannot be a key"),
        ("a: {<<: 3}\n", 1, "'<<' takes an anchored mapping"),
        (b"a: 1\nb: \xff\n", 2, "not UTF-8"),
        ("a: 1\n".encode("utf-16-le"), 1, "a NUL character; save the file as UTF-8"),
        ("a:\n  \tb: 1\n", 2, "a tab; indent with spaces"),
        ('a: "\\ud83d"\n', 1, "half of a surrogate pair; write the character itself"),
        ("a: 1\nb: \x01\n", 2, "a control character"),
        ("a: " + "9" * 5000 + "\n", 1, "not a usable number"),
        ("a: &x [*x]\n", 1, "the alias '*x' is inside its own anchor"),
        ("a: " + "[" * 50_000, 1, "levels deep"),
    ],
)
def test_syntax_errors_have_a_place(text: str | bytes, line: int, what: str) -> None:
    problem = only_problem(text)
    assert problem.line == line
    assert what in problem.message
    assert ";" in problem.message


def test_a_file_may_not_be_too_large() -> None:
    assert str(only_problem(b"#" * (MAX_BYTES + 1))) == "f.yaml: larger than 4 MiB; make it smaller"


def test_bytes_that_are_not_utf_8_have_a_column() -> None:
    problem = only_problem("k: 1\nä: ".encode() + b"\xff\n")
    assert (problem.line, problem.column) == (2, 4)


@pytest.mark.parametrize(
    "text",
    [
        '{\n\t"a": [\n\t\t1,\t2\n\t]\n}\n',
        "a:\t[1, 2]\t# two\n",
        "\t\n  \t# nothing\na:\n  -\t1\n  - 2\t\n\t",
        "{\r\n\ta: [1, 2]\r\n}\r\n",
    ],
)
def test_tabs_between_tokens_and_in_empty_lines_are_blanks(text: str) -> None:
    document = parse(text.encode())
    assert document.value == {"a": [1, 2]}
    assert document.problems == []


def test_a_json_document_is_read_as_json_reads_it() -> None:
    value = {
        "models": {"m": {"options": {"stop": ["\U0001f600", "a/b", "\u2028\x00\n"], "seed": 10**15, "min_p": 1e-7}}}
    }
    for indent in (None, 2, "\t"):
        assert parse(json.dumps(value, indent=indent).encode()).value == value


def test_merge_keys_are_overridden_by_own_keys() -> None:
    document = parse(b"a: &base {t: 1, k: 2}\nb: {k: 3, <<: *base}\nc: {<<: [{t: 9}, *base]}\n")
    assert document.value["b"] == {"k": 3, "t": 1}
    assert document.value["c"] == {"t": 9, "k": 2}
    assert document.problems == []


def test_anchor_expansion_is_limited() -> None:
    lines = ["a0: &a0 [x, x, x, x, x, x, x, x, x, x]"]
    lines += [f"a{i}: &a{i} [" + ", ".join([f"*a{i - 1}"] * 10) + "]" for i in range(1, 9)]
    assert "more than 500000 values" in only_problem("\n".join(lines)).message


def test_paths_and_problems_are_formatted() -> None:
    assert dotted(("models", "llama3.2", "serve", 0, "model")) == "models.llama3.2.serve[0].model"
    assert str(Problem(at(3, 4), "a.b", "bad; fix it")) == "f.yaml:3:4: a.b: bad; fix it"
    assert str(Problem(Place("f.yaml"), "", "gone; name another")) == "f.yaml: gone; name another"


@given(st.text(alphabet="ab:-[]{}&*<!|>\"'#\n\t 1.~?", max_size=80) | st.binary(max_size=60))
def test_any_bytes_are_parsed_without_an_exception(text: str | bytes) -> None:
    document = parse(text.encode() if isinstance(text, str) else text)
    for problem in document.problems:
        assert problem.message
