"""Continues an answer on another worker: the requests, from the text of the tokens so far to the rest of the answer.

vLLM may have held back text of tokens that it sent, for stop strings and for half a character, so the text comes from
the new worker's tokenizer. Tokens after the last whole character are generated again: nobody has seen them, and vLLM's
detokenizer would begin with the prompt's text if the prompt ended in half a character. If the last of them ended a
character that was sent, this is done at temperature 0 only, which repeats it.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from vllama_pool.router.errors import Lost
from vllama_pool.router.protocol.operation import DirectResponse, NextStep, Resumable, UpstreamRequest
from vllama_pool.router.protocol.vllm import api, tokenize
from vllama_pool.router.protocol.vllm.seam import Seam
from vllama_pool.router.protocol.vllm.token_log import Progress

CONTEXT: Final = 8
"""Tokens of the prompt that the tokens of the answer are detokenized with, as some tokenizers join words."""
MAX_HALVES: Final = 4
"""Tokens that may hold the begin of a character, which has four bytes at most."""
_HALF = "\ufffd"
_SAMPLING = (
    *("temperature", "top_k", "top_p", "min_p", "logit_bias", "stop_token_ids", "ignore_eos", "min_tokens"),
    *("skip_special_tokens", "allowed_token_ids", "length_penalty", "user", "stream_interval"),
)
"""Fields that both halves share. Stop strings are the router's, which alone knows the text before the seam."""


class Continuation:
    """Yields the steps of the second attempt. `seam` translates its answer."""

    __slots__ = ("_context_length", "_model", "_progress", "_sampling", "_shows_ids", "dropped", "seam")

    def __init__(self, kept: Resumable, progress: Progress, model: str, context_length: int) -> None:
        """`model`: as the worker serves it. `context_length`: in tokens; 0 if unknown."""
        self._sampling: api.VllmSampling = kept.sampling
        self._shows_ids = not kept.hides_ids
        self._progress = progress
        self._model = model
        self._context_length = context_length
        self.seam: Seam | None = None
        """Set by the last step."""
        self.dropped = 0
        """Tokens that are generated again."""

    def first_step(self) -> NextStep:
        progress = self._progress
        context = progress.prompt[-CONTEXT:]

        def on_context(before: str) -> NextStep:
            return self._text_of(progress.ids, context, before)

        return self._detokenize(context, on_context)

    def _text_of(self, ids: tuple[int, ...], context: tuple[int, ...], before: str) -> NextStep:
        def on_text(whole: str) -> NextStep:
            if not whole.startswith(before):
                raise unsound("the tokens' text depends on the prompt")
            if whole.endswith(_HALF) and ids and self.dropped < MAX_HALVES:
                self.dropped += 1
                return self._text_of(ids[:-1], context, before)
            return self._resume(ids, self._content(whole[len(before) :]))

        return self._detokenize((*context, *ids), on_text)

    def _content(self, text: str) -> str:
        """Return the content of the tokens' text, without the reasoning before it."""
        progress = self._progress
        if not progress.reasoning:
            again = self.dropped and self._sampling.temperature == 0 and progress.text.startswith(text)
            if not (again or text.startswith(progress.text)):
                raise unsound("the tokens' text differs from the answer's")
            return text
        begin = text.find(progress.reasoning)
        begin = -1 if begin < 0 else text.find(progress.text, begin + len(progress.reasoning))
        if begin < 0 or not progress.text or text.find(progress.text, begin + 1) >= 0:
            raise unsound("the end of the reasoning is not known")
        return text[begin:]

    def _resume(self, ids: tuple[int, ...], text: str) -> NextStep:
        progress, sampling = self._progress, self._sampling
        if _HALF in text[len(progress.text) :]:
            raise unsound("the answer is not text")
        limit = getattr(sampling, "max_completion_tokens", None) or sampling.max_tokens
        used = len(progress.prompt) + len(ids)
        if limit is not None:
            room = limit - len(ids)
        elif not progress.is_chat:
            room = api.COMPLETION_TOKENS - len(ids)
        elif self._context_length:
            room = self._context_length - used
        else:
            raise unsound("the context is not known")
        stop = sampling.stop
        stops = (stop,) if isinstance(stop, str) else tuple(stop or ())
        minimum = getattr(sampling, "min_tokens", None) or 0
        self.seam = seam = Seam(
            progress.head,
            chat=progress.is_chat,
            prompt_tokens=len(progress.prompt),
            tokens=len(ids),
            text=text,
            sent=progress.text,
            stops=stops,
            keeps_stop=bool(getattr(sampling, "include_stop_str_in_output", None)),
            min_tokens=minimum,
            shows_ids=self._shows_ids,
        )
        if room <= 0:
            return DirectResponse(seam.close("length"))
        fields = {name: value for name in _SAMPLING if (value := getattr(sampling, name, None)) is not None}
        if minimum:
            fields["min_tokens"] = max(0, minimum - len(ids))
        body = {
            "model": self._model,
            "prompt": (*progress.prompt, *ids),
            "stream": True,
            "stream_options": api.INCLUDE_USAGE,
            "max_tokens": room,
            "return_token_ids": True,
            **fields,
        }
        return UpstreamRequest(api.COMPLETIONS_PATH, api.encode(body))

    def _detokenize(self, ids: tuple[int, ...], then: Callable[[str], NextStep]) -> NextStep:
        return tokenize.detokenize(self._model, list(ids), lambda text: then(text.prompt))


def unsound(why: str) -> Lost:
    lost = Lost(f"the answer cannot be continued: {why}", status=502)
    lost.in_progress = False
    return lost
