"""Text for output holds no password of an address, whatever form the address has."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vllama_pool.config.redaction import redacted


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("no router at http://10.0.0.1:80/v; fix it", "no router at http://10.0.0.1:80/v; fix it"),
        ("http://u:p@h:1/x is wrong", "http://…@h:1/x is wrong"),
        ("'redis://:p@s/s?w#d@h' is wrong", "'redis://…@h' is wrong"),
        ("redis://u:p w@h is wrong", "redis://…@h is wrong"),
        ("//u:p@h", "//…@h"),
        ("u:p/w@h:1 is wrong", "…@h:1 is wrong"),
        ("redis:/:p w@h is wrong", "redis:/…@h is wrong"),
        ("redis:/h?password=p w", "redis:/h?…"),
        ("u:p@h:1 is wrong", "…@h:1 is wrong"),
        ("http://h/x?y=z; fix it", "http://h/x?… fix it"),
        ("http://h?password=a b; fix it", "http://h?…"),
        ("http://h?api_key=a&b", "http://h?…"),
        ("mail a@b.example", "mail a@b.example"),
        ("12:30 model a:b", "12:30 model a:b"),
        ("one http://u:p@h\ntwo", "one http://…@h\ntwo"),
    ],
)
def test_user_info_and_query_are_removed(text: str, shown: str) -> None:
    assert redacted(text) == shown


@given(
    st.text(alphabet="@:/%#?&=[]\\ '\",;ab\té", max_size=12),
    st.sampled_from(["redis", "rediss", "http", "unix", "x+y"]),
    st.sampled_from(["", "u", "u%40"]),
)
def test_no_password_in_user_info_survives(middle: str, scheme: str, user: str) -> None:
    shown = redacted(f"the address '{scheme}://{user}:hunter{middle}tiger@host:1/2' is wrong; correct it")
    assert "hunter" not in shown
    assert "tiger" not in shown
    assert redacted(shown) == shown


@given(st.text(max_size=80))
def test_text_without_an_address_is_unchanged(text: str) -> None:
    plain = text.replace("@", "").replace("/", "")
    assert redacted(plain) == plain
