"""The tokenizer that needs no model."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vllama_pool.workers.simulated import vocabulary as v

TEXT = st.text(alphabet=st.characters(exclude_categories=["Cs"]))


@given(TEXT)
def test_every_text_comes_back(text: str) -> None:
    assert v.decode(v.encode(text)) == text


@given(TEXT)
def test_token_texts_join_to_the_text(text: str) -> None:
    tokens = v.encode(text)
    pieces = v.texts(tokens)
    assert len(pieces) == len(tokens)
    assert "".join(pieces) == text
    assert "\ufffd" in text or "\ufffd" not in "".join(pieces)


def test_a_character_comes_whole_with_its_last_token() -> None:
    tokens = v.encode("🦙")
    assert len(tokens) == 2
    assert v.texts(tokens) == ["", "🦙"]


def test_known_words_and_markup_are_one_token_each() -> None:
    assert v.encode(" one two") == [v.encode(" one")[0], v.encode(" two")[0]]
    assert v.encode("<|im_start|>user<|im_end|>")[::2] == [v.IM_START, v.IM_END]


def test_the_mark_of_an_answer_is_never_made_from_text() -> None:
    assert v.MARK not in v.encode(f"{v.MARK_TEXT} {v.MARK_TEXT}")
    assert v.decode([v.MARK]) == v.MARK_TEXT


@given(st.integers(0, v.SIZE - 1))
def test_every_id_has_bytes_or_is_refused(token: int) -> None:
    unused = v.MARK < token < 512 or 512 + len(v.WORDS) <= token < 1024
    if unused:
        with pytest.raises(ValueError, match=f"Token id {token} is out of vocabulary"):
            v.token_bytes(token)
    else:
        assert v.token_bytes(token)


@pytest.mark.parametrize("token", [-1, v.SIZE, 99999999])
def test_ids_outside_are_refused(token: int) -> None:
    with pytest.raises(ValueError, match="out of vocabulary"):
        v.decode([token])
