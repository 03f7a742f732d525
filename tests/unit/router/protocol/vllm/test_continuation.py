"""An answer that is cut after any token goes on as if nothing had happened."""

from __future__ import annotations

import codecs
from collections.abc import Sequence
from itertools import pairwise
from operator import itemgetter
from typing import Any

import msgspec
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.support.protocol import CLOCK, TIMING, objects
from vllama_pool.router.protocol.ollama import chat
from vllama_pool.router.protocol.ollama.requests import decode_chat
from vllama_pool.router.protocol.operation import DirectResponse, PreflightRequest, Resumable
from vllama_pool.router.protocol.vllm import api
from vllama_pool.router.protocol.vllm.continuation import Continuation
from vllama_pool.router.protocol.vllm.token_log import TokenLog

PROMPT = [1, 2]
DONE = b"data: [DONE]\n\n"


class Vllm:
    """vLLM's detokenizer and stop strings, for one answer: the tokens are pieces of its bytes."""

    def __init__(self, pieces: Sequence[bytes], stops: Sequence[str]) -> None:
        self._bytes = {1: b"Q", 2: b":", **dict(enumerate(pieces, 10))}
        self._answer = list(range(10, 10 + len(pieces)))
        self._stops = stops

    def chat(self) -> list[bytes]:
        """Return the events of the whole answer."""
        first = _event({"delta": {"role": "assistant", "content": ""}}, prompt_token_ids=PROMPT)
        tokens = self._generate(self._answer, self._stops)
        events = [
            _event({"delta": {"content": text}, "finish_reason": finish, "token_ids": [token]})
            for token, text, finish in tokens
        ]
        return [first, *events, _usage(len(PROMPT), len(events)), DONE]

    def completion(self, prompt: Sequence[int], max_tokens: int) -> list[bytes]:
        """Return the events of the rest, without stop strings."""
        done = len(prompt) - len(PROMPT)
        assert list(prompt[len(PROMPT) :]) == self._answer[:done]
        assert max_tokens == len(self._answer) - done
        tokens = self._generate(self._answer[done:], ())
        events = [
            _event({"text": text, "finish_reason": finish, "token_ids": [token]}) for token, text, finish in tokens
        ]
        return [*events, _usage(len(prompt), len(events)), DONE]

    def detokenize(self, ids: Sequence[int]) -> str:
        return b"".join(self._bytes[each] for each in ids).decode(errors="replace")

    def _generate(self, ids: Sequence[int], stops: Sequence[str]) -> list[tuple[int, str, str | None]]:
        """Return token, text and finish of each event."""
        decoder, text, sent, events = codecs.getincrementaldecoder("utf-8")(), "", 0, []
        held = max(map(len, stops), default=1) - 1
        for place, token in enumerate(ids, 1):
            text += decoder.decode(self._bytes[token])
            ends = [(text.find(stop) + len(stop), stop) for stop in stops if stop in text]
            if ends:
                end, stop = min(ends, key=itemgetter(0))
                return [*events, (token, text[sent : end - len(stop)], "stop")]
            end = len(text) if place == len(ids) else max(sent, len(text) - held)
            events.append((token, text[sent:end], "length" if place == len(ids) else None))
            sent = end
        return events


def _event(choice: dict[str, Any], **fields: Any) -> bytes:
    return b"data: %b\n\n" % msgspec.json.encode(
        {"id": "1", "model": "m", "choices": [{"index": 0, **choice}], **fields}
    )


def _usage(prompt: int, tokens: int) -> bytes:
    usage = {"prompt_tokens": prompt, "completion_tokens": tokens}
    return b"data: %b\n\n" % msgspec.json.encode({"id": "1", "model": "m", "choices": [], "usage": usage})


def seen(lines: bytes) -> tuple[str, str, int, int]:
    """Return text, reason and counts of Ollama's lines."""
    read = objects(lines)
    last = read[-1]
    assert last["done"], read
    text = "".join(line["message"]["content"] for line in read)
    return text, last["done_reason"], last["prompt_eval_count"], last["eval_count"]


def translator() -> Any:
    return chat.translator(decode_chat(b'{"model":"m","messages":[]}'), TIMING, CLOCK)


def cut_after(vllm: Vllm, events: Sequence[bytes], count: int, kept: Resumable) -> tuple[str, str, int, int]:
    """Return the answer whose first worker sends so many events, and another one the rest."""
    log, answer = TokenLog(), translator()
    out = b"".join(answer.feed(log.feed(event)) for event in events[:count])
    progress = log.progress()
    assert progress is not None
    continuation = Continuation(kept, progress, "m", 1000)
    step = continuation.first_step()
    while isinstance(step, PreflightRequest):
        text = vllm.detokenize(msgspec.json.decode(step.body)["tokens"])
        step = step.then(msgspec.json.encode({"prompt": text}))
    answer.restart(continuation.dropped)
    if isinstance(step, DirectResponse):
        return seen(out + answer.feed(step.body))
    body, seam = msgspec.json.decode(step.body), continuation.seam
    assert seam is not None
    for event in vllm.completion(body["prompt"], body["max_tokens"]):
        out += answer.feed(seam.feed(event))
    return seen(out)


@st.composite
def answers(draw: st.DrawFn) -> tuple[list[bytes], list[str]]:
    """Return the bytes of each token, and stop strings."""
    text = draw(st.text("ab é好🦊", min_size=1, max_size=14))
    data = text.encode()
    cuts = draw(st.sets(st.integers(1, len(data))))
    pieces = [data[begin:end] for begin, end in pairwise(sorted({0, len(data), *cuts}))]
    begins = st.integers(0, len(text) - 1)
    inside = st.tuples(begins, st.integers(1, 5)).map(lambda at: text[at[0] : at[0] + at[1]])
    return pieces, draw(st.lists(inside | st.text("abé🦊", min_size=1, max_size=4), max_size=2))


@settings(max_examples=200, deadline=None)
@given(answers())
def test_held_back_text_is_neither_lost_nor_doubled_wherever_the_answer_is_cut(
    answer: tuple[list[bytes], list[str]],
) -> None:
    """Half characters, and text that may begin a stop string."""
    pieces, stops = answer
    vllm = Vllm(pieces, stops)
    events = vllm.chat()
    undisturbed = translator()
    whole = seen(b"".join(map(undisturbed.feed, events)))
    sampling = api.VllmChatRequest(
        model="m",
        messages=[],
        stream=True,
        stream_options=api.INCLUDE_USAGE,
        temperature=0.0,
        max_tokens=len(pieces),
        stop=stops or None,
    )
    finish = len(events) - 3
    for count in range(1, finish + 1):
        assert cut_after(vllm, events, count, Resumable(sampling, False)) == whole, count
