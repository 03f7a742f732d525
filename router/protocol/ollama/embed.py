"""POST /api/embed and /api/embeddings (R025, R026, R099-R102).

vLLM has no `num_ctx`. Where it is below the model's context, tokens are counted first.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import msgspec

from vllama_pool.config.routing.defaults import Defaults
from vllama_pool.router.errors import AttemptFailed, BadRequest, ContextTooLong, Faulty, ModelNotFound, Refused
from vllama_pool.router.protocol.json_lines import encode
from vllama_pool.router.protocol.ollama import options
from vllama_pool.router.protocol.ollama.gojson import BodyDecoder
from vllama_pool.router.protocol.ollama.keep_alive import KeepAlive, dec_hook
from vllama_pool.router.protocol.ollama.not_found import generation_text
from vllama_pool.router.protocol.ollama.request_base import Body, Int, require_model
from vllama_pool.router.protocol.operation import DirectResponse, NextStep, UpstreamRequest
from vllama_pool.router.protocol.vllm import api, errors, tokenize
from vllama_pool.router.protocol.vllm.window import lower, too_long
from vllama_pool.workers.registry.record import ModelInfo

BAD_INPUT = "invalid input type"
TOO_LONG = "the input length exceeds the context length"
NO_ROOM = "input after truncation exceeds maximum context length"
CANNOT_EMBED = "this model does not support embeddings"
"""These four texts are Ollama's."""

MAX_SPECIAL_TOKENS = 16
"""Upper bound of the tokens that a model adds to a text."""
MAX_COUNTED = 16
"""Longest texts of a batch to count."""


class EmbedBody(Body, frozen=True, kw_only=True):
    GO_NAME: ClassVar = "api.EmbedRequest"

    model: str = ""
    input: Any = None
    truncate: bool | None = None
    dimensions: Int = 0
    keep_alive: KeepAlive | None = None
    options: dict[str, Any] | None = None


class EmbeddingsBody(Body, frozen=True, kw_only=True):
    GO_NAME: ClassVar = "api.EmbeddingRequest"

    model: str = ""
    prompt: str = ""
    keep_alive: KeepAlive | None = None
    options: dict[str, Any] | None = None


class EmbedRequest(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    model: str
    texts: Sequence[str]
    """Empty for a load request (R091, R100)."""
    encoded: bytes
    """JSON array of the texts, encoded in the thread that decodes a large body."""
    keep_alive: int | None
    options: Mapping[str, Any]
    truncate: bool = True
    dimensions: int = 0
    """Components per vector; 0 or less for all."""
    plain: bool = False
    """True for /api/embeddings: vectors are not normalised."""

    stream: ClassVar = False
    """R043."""
    streams_answer: ClassVar = False


EMBED = BodyDecoder(EmbedBody, dec_hook)
EMBEDDINGS = BodyDecoder(EmbeddingsBody, dec_hook)


def decode_embed(body: bytes) -> EmbedRequest:
    """Reports an invalid `input` before a missing model (R166)."""
    request = EMBED.decode(body)
    texts = _texts(request.input)
    if not request.model.strip():
        raise ModelNotFound(generation_text(request.model))
    return EmbedRequest(
        model=request.model,
        texts=texts,
        encoded=api.encode(texts),
        keep_alive=request.keep_alive,
        options=request.options or {},
        truncate=request.truncate is not False,
        dimensions=request.dimensions,
    )


def decode_embeddings(body: bytes) -> EmbedRequest:
    request = EMBEDDINGS.decode(body)
    require_model(request.model)
    texts = _texts(request.prompt)
    return EmbedRequest(
        model=request.model,
        texts=texts,
        encoded=api.encode(texts),
        keep_alive=request.keep_alive,
        options=request.options or {},
        truncate=False,
        plain=True,
    )


def _texts(value: Any) -> list[str]:
    if value is None or value == "":
        return []
    if isinstance(value, str):
        return [value]
    if not isinstance(value, list) or not all(isinstance(text, str) for text in value):
        raise BadRequest(BAD_INPUT)
    return value


def check(request: EmbedRequest, info: ModelInfo) -> DirectResponse | None:
    """Answers a load (R091). Capabilities are not checked (R102)."""
    if request.options:
        options.check(request.options)
    if request.texts:
        return None
    return DirectResponse(b'{"embedding":[]}' if request.plain else encode({"model": request.model, "embeddings": []}))


def prepare(request: EmbedRequest, info: ModelInfo, defaults: Defaults) -> NextStep:
    wanted = request.options.get("num_ctx")
    limit = options.int_option(defaults.options.get("num_ctx") if wanted is None else wanted)
    limit = lower(limit, defaults.context)
    if limit is None or not info.context_length or limit >= info.context_length:
        return _upstream_request(request, info, -1 if request.truncate else None)
    if request.truncate:
        upstream = _upstream_request(request, info, limit)
        return _require_room(info, limit, upstream) if limit <= MAX_SPECIAL_TOKENS else upstream
    candidates = [text for text in request.texts if len(text.encode()) + MAX_SPECIAL_TOKENS > limit]
    candidates.sort(key=len, reverse=True)
    then = _upstream_request(request, info, None)
    return _require_short(candidates[:MAX_COUNTED], info, limit, then, of_entry=limit == defaults.context)


def untruncated(request: EmbedRequest, info: ModelInfo, defaults: Defaults) -> EmbedRequest:
    """A `num_ctx` is a wish to truncate; other contexts are limits."""
    options_ = request.options.get("num_ctx"), defaults.options.get("num_ctx")
    if not request.truncate or any(value is not None for value in options_):
        return request
    return msgspec.structs.replace(request, truncate=False)


def adapt(request: EmbedRequest, info: ModelInfo, defaults: Defaults, *refusals: AttemptFailed) -> NextStep | None:
    """Truncate a request that was sent `untruncated`.

    Raises Refused with Ollama's text; for /api/embeddings always as a 500 (R101).
    """
    if isinstance(refusals[-1], Faulty):
        return None
    if isinstance(refusals[-1], ContextTooLong) and request.truncate and len(refusals) == 1:
        return prepare(request, info, defaults)
    text, status = refusals[-1].text, refusals[-1].status
    if text == errors.CONTEXT_EXCEEDED:
        text = TOO_LONG
    elif text == errors.WRONG_TASK:
        text, status = CANNOT_EMBED, 501
    raise Refused(text, status=500 if request.plain else status)


def _upstream_request(request: EmbedRequest, info: ModelInfo, truncate_at: int | None) -> UpstreamRequest:
    body = api.VllmEmbeddingRequest(
        model=info.name,
        input=msgspec.Raw(request.encoded),
        encoding_format="base64",
        truncate_prompt_tokens=truncate_at,
        use_activation=not request.plain,
    )
    return UpstreamRequest(api.EMBEDDINGS_PATH, api.encode(body))


def _require_room(info: ModelInfo, limit: int, then: UpstreamRequest) -> NextStep:
    """Refuse a limit that special tokens fill."""

    def on_count(empty: api.VllmTokenCount) -> NextStep:
        if limit <= empty.count:
            raise Refused(NO_ROOM, status=400)
        return then

    return tokenize.count_text(info.name, "", on_count)


def _require_short(
    texts: Sequence[str], info: ModelInfo, limit: int, then: UpstreamRequest, *, of_entry: bool
) -> NextStep:
    """`of_entry`: the limit is the routing file's, and not the client's `num_ctx`."""
    if not texts:
        return then

    def on_count(counted: api.VllmTokenCount) -> NextStep:
        if counted.count > limit:
            raise too_long(counted.count, limit) if of_entry else Refused(errors.CONTEXT_EXCEEDED, status=400)
        return _require_short(texts[1:], info, limit, then, of_entry=of_entry)

    return tokenize.count_text(info.name, texts[0], on_count)
