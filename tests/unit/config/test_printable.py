from __future__ import annotations

import pytest

from vllama_pool.config.printable import printable, shortlist


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("größer [x] :100: \U0001f600", "größer [x] :100: \U0001f600"),
        ("a\nb\x1b[31m\x7f", "a\\nb\\x1b[31m\\x7f"),
        ("\x85\x9b\u2028\u202e", "\\x85\\x9b\\u2028\\u202e"),
    ],
)
def test_control_characters_become_escapes(text: str, shown: str) -> None:
    assert printable(text) == shown


@pytest.mark.parametrize(
    ("texts", "shown"), [([], ""), (["a"], "a"), (["a", "b"], "a, b"), (["a", "b", "c", "d"], "a, b and 2 more")]
)
def test_a_long_list_names_the_first_and_counts_the_rest(texts: list[str], shown: str) -> None:
    assert shortlist(texts, 2) == shown
