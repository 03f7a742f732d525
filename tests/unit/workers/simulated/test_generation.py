"""The end of a sequence."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vllama_pool.workers.simulated import vocabulary as v
from vllama_pool.workers.simulated.answers import AnswerPlan, Kind, SimulatedText, Token, answer
from vllama_pool.workers.simulated.generation import END, Ending, Generation, StopFilter

PROMPT = v.encode("<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\n")


class Taken:
    def __init__(self) -> None:
        self.tokens: list[Token] = []
        self.end: tuple[str, str | None] = ("", None)

    def token(self, token: Token, finish: str, stop_reason: str | None) -> None:
        self.tokens.append(token)
        self.end = (finish, stop_reason)

    @property
    def text(self) -> str:
        return "".join(token.text for token in self.tokens)


def run(whole: SimulatedText, ending: Ending) -> Taken:
    taken = Taken()
    generation = Generation(len(PROMPT), whole, ending, taken)
    while not generation.step(0.0):
        assert generation.count < 10_000
    assert generation.count == len(taken.tokens)
    return taken


PLAIN = answer(PROMPT, AnswerPlan(length=20))


def test_at_its_natural_end_with_the_end_of_text_token() -> None:
    taken = run(PLAIN, Ending(limit=1000))
    assert taken.end == ("stop", None)
    assert len(taken.tokens) == 21
    assert taken.tokens[-1] is END


def test_at_its_limit_with_text_in_the_last_token() -> None:
    taken = run(PLAIN, Ending(limit=7))
    assert taken.end == ("length", None)
    assert len(taken.tokens) == 7
    assert taken.tokens[-1].text


def test_end_of_text_can_be_ignored_and_put_off() -> None:
    assert run(PLAIN, Ending(limit=500, ignore_eos=True)).end == ("length", None)
    assert len(run(PLAIN, Ending(limit=500, min_tokens=100)).tokens) == 101


@pytest.mark.parametrize(
    ("include", "text"), [(False, "Simulated answer to: Hi. I "), (True, "Simulated answer to: Hi. I cou")]
)
def test_at_a_stop_string(include: bool, text: str) -> None:
    taken = run(PLAIN, Ending(limit=500, stop=("cou", "never"), include_stop=include))
    assert taken.end == ("stop", "cou")
    assert taken.text == text


def test_a_stop_string_that_never_comes_changes_no_text() -> None:
    plain, held = run(PLAIN, Ending(limit=500)), run(PLAIN, Ending(limit=500, stop=("llama llama",)))
    assert held.text == plain.text
    assert held.end == ("stop", None)


WORDS = st.lists(st.sampled_from(["a", "b", "ab", "ba", "aab", " "]), min_size=1, max_size=12)


@given(WORDS, st.lists(st.sampled_from(["ab", "ba ", "aaa", "b b"]), min_size=1, max_size=3))
def test_the_filter_finds_the_first_stop_string_however_the_text_is_cut(pieces: list[str], stop: list[str]) -> None:
    """The output ends before the first stop string, and never contains the beginning of one."""
    finder = StopFilter(stop, include=False)
    shown, reason = "", None
    for piece in pieces:
        token, reason = finder.feed(Token(1, piece, Kind.CONTENT, b""), last=False)
        shown += token.text
        if reason:
            break
    else:
        token, reason = finder.feed(END, last=True)
        shown += token.text
    text = "".join(pieces)
    ends = [end for end in range(len(text) + 1) if any(text[:end].endswith(word) for word in stop)]
    if not ends:
        assert (shown, reason) == (text, None)
    else:
        assert reason in stop
        assert text.startswith(shown + str(reason))
        assert not any(word in shown for word in stop)
