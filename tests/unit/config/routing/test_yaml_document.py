import pytest
from hypothesis import given
from hypothesis import strategies as st

from vllama_pool.config.routing.yaml_document import MAX_BYTES, Position, Problem, dotted, parse


def only_problem(text: str | bytes) -> Problem:
    document = parse(text.encode() if isinstance(text, str) else text)
    assert len(document.problems) == 1, document.problems
    return document.problems[0]


def test_positions_of_keys_and_values_are_recorded() -> None:
    document = parse(b"models:\n  x:\n    serve: [a, {model: b}]\nworkers:\n  - url: u\n")
    assert document.value == {"models": {"x": {"serve": ["a", {"model": "b"}]}}, "workers": [{"url": "u"}]}
    assert document.problems == []
    assert document.key_position(("models", "x")) == Position(2, 3)
    assert document.value_position(("models", "x", "serve")) == Position(3, 12)
    assert document.value_position(("models", "x", "serve", 1, "model")) == Position(3, 24)
    assert document.key_position(("workers", 0)) == Position(5, 5)
    assert document.key_position(("workers", 0, "missing")) == Position(5, 5)


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
        ("=", "="),
    ],
)
def test_scalars_have_yaml_types(scalar: str, value: object) -> None:
    document = parse(f"k: {scalar}\n".encode())
    assert document.value == {"k": value}
    assert document.problems == []


@pytest.mark.parametrize(
    ("text", "line", "what"),
    [
        ("a: 1\na: 2\n", 2, "written twice, first in line 1"),
        ("a:\n\tb: 1\n", 2, "a tab; indent with spaces"),
        ("a: b: c\n", 1, "check the indentation"),
        ("a: [1\nb: 2\n", 2, "not YAML"),
        ("a: 1\n---\nb: 2\n", 2, "a second document begins"),
        ("a: *nowhere\n", 1, "undefined alias"),
        ("a: !!python/object/apply:os.system ['true']\n", 1, "the tag !!python/object/apply:os.system"),
        ("a: !thing {b: 1}\n", 1, "the tag !thing is not supported"),
        ("a: !secret x\n", 1, "the tag !secret is not supported"),
        ("a: !!binary aGk=\n", 1, "the tag !!binary is not supported"),
        ("ok: 1\n3.2: x\n", 2, 'the key 3.2 is read as the number 3.2; put it in quotes: "3.2"'),
        ("on: x\n", 1, "the key on is read as the value true"),
        ("? [a]\n: x\n", 1, "a list or mapping cannot be a key"),
        ("a: {<<: 3}\n", 1, "'<<' takes an anchored mapping"),
        (b"a: 1\nb: \xff\n", 2, "not UTF-8"),
        ("a: 1\nb: \x01\n", 2, "a control character"),
        ("a: " + "9" * 5000 + "\n", 1, "not a usable number"),
        ("a: &x [*x]\n", 1, "levels deep"),
        ("a: " + "[" * 50_000, 1, "levels deep"),
        (b"#" * (MAX_BYTES + 1), 0, "larger than 512 KiB"),
    ],
)
def test_syntax_errors_have_a_position(text: str | bytes, line: int, what: str) -> None:
    problem = only_problem(text)
    assert problem.line == line
    assert what in problem.message
    assert ";" in problem.message


def test_merge_keys_are_overridden_by_own_keys() -> None:
    document = parse(b"a: &base {t: 1, k: 2}\nb: {k: 3, <<: *base}\nc: {<<: [{t: 9}, *base]}\n")
    assert document.value["b"] == {"k": 3, "t": 1}
    assert document.value["c"] == {"t": 9, "k": 2}
    assert document.problems == []


def test_anchor_expansion_is_limited() -> None:
    lines = ["a0: &a0 [x, x, x, x, x, x, x, x, x, x]"]
    lines += [f"a{i}: &a{i} [" + ", ".join([f"*a{i - 1}"] * 10) + "]" for i in range(1, 9)]
    assert "more than 100000 values" in only_problem("\n".join(lines)).message


def test_paths_and_problems_are_formatted() -> None:
    assert dotted(("models", "llama3.2", "serve", 0, "model")) == "models.llama3.2.serve[0].model"
    assert Problem(3, 4, "a.b", "bad; fix it").located("f.yaml") == "f.yaml:3:4: a.b: bad; fix it"
    assert Problem(0, 0, "", "gone; name another").located("f.yaml") == "f.yaml: gone; name another"


@given(st.text(alphabet="ab:-[]{}&*<!|>\"'#\n\t 1.~?", max_size=80) | st.binary(max_size=60))
def test_any_bytes_are_parsed_without_an_exception(text: str | bytes) -> None:
    document = parse(text.encode() if isinstance(text, str) else text)
    for problem in document.problems:
        assert problem.message
