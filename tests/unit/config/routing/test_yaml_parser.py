"""libyaml's parser and the tolerant one, which replaces it where it is missing or too strict."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vllama_pool.config.routing.places import Place
from vllama_pool.config.routing.yaml_document import Document, parse
from vllama_pool.config.routing.yaml_parser import FASTEST, MAX_TOLERANT, TolerantParser, place_at

BLOCK = """\
a:
  - 1
  - {b: c, d: [e, 'f', "g"]}
# note
h: |
  text
  more
i: &x {j: 0x1F}
k: *x
l: {<<: *x, m: }
"""


def both(text: str) -> tuple[Document, Document]:
    data = text.encode()
    return parse(data, "f", parser=FASTEST), parse(data, "f", parser=TolerantParser)


def test_libyaml_is_used_where_pyyaml_has_it() -> None:
    assert FASTEST is not TolerantParser


def test_both_parsers_read_the_same_values_at_the_same_places() -> None:
    fast, tolerant = both(BLOCK)
    assert fast.problems == tolerant.problems == []
    assert fast.value == tolerant.value
    for path in (("a", 0), ("a", 1, "d", 2), ("h",), ("i", "j"), ("l", "j")):
        assert fast.key_place(path) == tolerant.key_place(path)
        assert fast.value_place(path) == tolerant.value_place(path)


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(min_size=1, max_size=5), inner, max_size=4),
    max_leaves=20,
)


@given(st.dictionaries(st.text("abc", min_size=1), json_values, max_size=4), st.sampled_from([None, 1, "\t"]))
def test_json_is_read_as_json_reads_it_by_both(value: dict[str, Any], indent: int | str | None) -> None:
    fast, tolerant = both(json.dumps(value, indent=indent).replace("${", "$$").replace("x-", "x"))
    assert fast.value == tolerant.value
    assert fast.problems == tolerant.problems


@given(st.text(alphabet="ab:-[]{}&*<!|>\"'#\n 1.~?,%$", max_size=40))
def test_both_parsers_find_the_same_texts_wrong(text: str) -> None:
    fast, tolerant = both(text)
    if not fast.problems and not tolerant.problems:
        assert fast.value == tolerant.value


@pytest.mark.parametrize(
    "text",
    [
        "a: [1\n",
        "a: {b: 1\n",
        "a: 'x\n",
        "a: b: c\n",
        "a: @x\n",
        "a: - b\n",
        "a: 1\n}\n",
        "- a\nb: 1\n",
        "a: *\n",
        'a: "\\q"\n',
        "a: [1,,2]\n",
        "a: 1\n...\nb: 2\n",
        "%YAML 2.0\n---\na: 1\n",
        "a: !x!y z\n",
        "a: >\n\tb\n",
    ],
)
def test_both_parsers_name_the_mistake_with_the_same_words(text: str) -> None:
    fast, tolerant = both(text)
    (first,), (second,) = fast.problems, tolerant.problems
    assert first.line == second.line
    assert "not YAML" not in first.message + second.message
    assert first.message.partition(";")[0] == second.message.partition(";")[0]


def test_json_indented_with_tabs_is_read_but_not_if_it_is_huge() -> None:
    text = json.dumps({"a": ["\U0001f600"]}, indent="\t")
    assert parse(text.encode(), "f").value == {"a": ["\U0001f600"]}
    huge = parse((text + "\n#" + "x" * MAX_TOLERANT).encode(), "f")
    assert [problem.message for problem in huge.problems] == [
        "an escape of half a character or of none; write the character itself"
    ]


@pytest.mark.parametrize(
    ("text", "index", "line", "column"),
    [("", 0, 1, 1), ("ab", 1, 1, 2), ("a\nb", 2, 2, 1), ("a\r\nbc", 4, 2, 2), ("a\rb", 2, 2, 1), ("\n\n", 2, 3, 1)],
)
def test_a_place_is_counted_over_all_line_ends(text: str, index: int, line: int, column: int) -> None:
    assert place_at(text, index, "f") == Place("f", line, column)
