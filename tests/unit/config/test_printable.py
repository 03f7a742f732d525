from __future__ import annotations

import pytest

from vllama_pool.config.printable import printable


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
