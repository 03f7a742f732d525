"""Thinking between tags, in chunks of any size."""

from __future__ import annotations

import itertools

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.support.protocol import MODEL, THINKER
from vllama_pool.router.protocol.vllm.think_tags import ThinkTagSplitter, ends_inside, uses_tags


def split(pieces: list[str], *, begun: bool = False) -> tuple[str, str]:
    thoughts = ThinkTagSplitter(begun=begun)
    parts = [thoughts.split(piece) for piece in pieces] + [thoughts.rest()]
    return "".join(thinking for thinking, _ in parts), "".join(content for _, content in parts)


@pytest.mark.rule(84)
@pytest.mark.parametrize(
    ("text", "begun", "thinking", "content"),
    [
        ("<think>hm</think>yes", False, "hm", "yes"),
        ("\n <think>hm</think>\n\nyes", False, "hm", "\n\nyes"),
        ("hm</think>yes", True, "hm", "yes"),
        ("no tags <think>at all</think>", False, "", "no tags <think>at all</think>"),
        ("<think>never ends", False, "never ends", ""),
        ("<think>a</th</think>b</think>", False, "a</th", "b</think>"),
        ("<thin air", False, "", "<thin air"),
        ("<thin", False, "", "<thin"),
        ("  ", False, "", "  "),
        ("hm</thi", True, "hm</thi", ""),
        ("<think></think>", False, "", ""),
        ("", False, "", ""),
    ],
)
def test_only_leading_tagged_text_is_thinking(text: str, begun: bool, thinking: str, content: str) -> None:
    assert split([text], begun=begun) == split(list(text), begun=begun) == (thinking, content)


PARTS = st.sampled_from(["<think>", "</think>", "<", "</", "think", ">", "<thi", "</thin", "a", " ", "\n", "🦙"])


@given(st.lists(PARTS, max_size=10).map("".join), st.booleans(), st.data())
def test_splitting_does_not_depend_on_the_chunks(text: str, begun: bool, data: st.DataObject) -> None:
    cuts = sorted(data.draw(st.lists(st.integers(0, len(text)), max_size=8)))
    pieces = [text[start:end] for start, end in itertools.pairwise([0, *cuts, len(text)])]
    thinking, content = split([text], begun=begun)
    assert split(pieces, begun=begun) == (thinking, content)
    if not thinking:
        return
    inside = thinking if begun else text.lstrip().removeprefix("<think>")[: len(thinking)]
    assert thinking == inside
    assert "</think>" not in thinking


@given(st.text(max_size=20).filter(lambda text: "think>" not in text))
def test_text_without_tags_is_content(text: str) -> None:
    assert split(list(text)) == ("", text)


@pytest.mark.parametrize(
    ("end", "open_"),
    [
        ("<|im_start|>assistant\n", False),
        ("assistant\n<think>\n", True),
        ("<think>\n\n</think>\n\n", False),
        ("</think> and again <think>", True),
        ("", False),
    ],
)
def test_an_open_tag_at_the_prompts_end_is_found(end: str, open_: bool) -> None:
    assert ends_inside(end) is open_


def test_tags_are_detected_in_a_thinking_models_template() -> None:
    tagged = "{% if not enable_thinking %}<think></think>{% endif %}"
    assert uses_tags(msgspec.structs.replace(THINKER, template=tagged))
    assert not uses_tags(msgspec.structs.replace(MODEL, template=tagged))
    assert not uses_tags(THINKER)
