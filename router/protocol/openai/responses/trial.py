"""Trials of streams that vLLM may refuse after their beginning.

vLLM checks schemas, token ids and the number of logprobs when the head of the stream has left, and then closes the
connection, as if it had crashed. A request with such constraints is therefore first sent for one token, not streamed.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from hashlib import blake2b
from typing import Final

from vllama_pool.router.errors import Unavailable
from vllama_pool.router.protocol.openai.responses.requests import ResponsesRequest
from vllama_pool.router.protocol.openai.responses.tools import Tools
from vllama_pool.router.protocol.operation import NextStep, PreflightRequest, UpstreamRequest
from vllama_pool.router.protocol.vllm import api
from vllama_pool.router.protocol.vllm.whole_answer import NOT_AN_ANSWER, is_answer, read_response

_MAX_ACCEPTED: Final = 4096


class Trials:
    """Remembers which constraints a model accepted, so that each is tried once."""

    __slots__ = ("_accepted",)

    def __init__(self) -> None:
        self._accepted: set[bytes] = set()
        """Digests."""

    def __repr__(self) -> str:
        return f"<Trials: {len(self._accepted)} accepted>"

    def first(self, request: UpstreamRequest, model: str, constraints: bytes, trial: Callable[[], bytes]) -> NextStep:
        """Return the request, or the trial that leads to it."""
        digest = blake2b(constraints, key=model.encode()[:64], digest_size=16).digest()
        if digest in self._accepted:
            return request
        return PreflightRequest(request.path, trial(), partial(self._accept, digest, request))

    def _accept(self, digest: bytes, request: UpstreamRequest, answer: bytes) -> UpstreamRequest:
        if not is_answer(read_response, answer):
            raise Unavailable(NOT_AN_ANSWER.text, status=502)
        if len(self._accepted) >= _MAX_ACCEPTED:
            self._accepted.clear()
        self._accepted.add(digest)
        return request


def constraints(fields: ResponsesRequest, tools: Tools) -> bytes:
    """Return what vLLM checks late, b"" if there is nothing."""
    text = fields.text if fields.text is not None and fields.text.format is not None else None
    logprobs = fields.top_logprobs if fields.include else None
    forced = tools.choice not in (None, "auto", "none")
    grammar = tools.choice != "none" and any(tool.strict for tool in tools.functions())
    strict = tools.sent if forced or grammar else None
    found = (text, fields.logit_bias, fields.stop_token_ids, logprobs, strict)
    if not fields.structured_outputs and not any(found):
        return b""
    return bytes(fields.structured_outputs) + api.encode((*found, tools.choice if strict else None))
