"""POST /api/embed and /api/embeddings: what is asked, and the request to vLLM (R025, R026, R099-R102).

vLLM embeds all texts of a batch at once, and refuses what is too long unless it is told where to cut. What depends
on a `num_ctx` below the model's own context, which vLLM has no word for, is found out by counting tokens first.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import msgspec

from vllama_pool.config.routing.defaults import Defaults
from vllama_pool.router.errors import AttemptFailed, BadRequest, ModelNotFound, Refused
from vllama_pool.router.protocol.json_lines import encode
from vllama_pool.router.protocol.ollama import gojson, options, requests
from vllama_pool.router.protocol.ollama.durations import keep_alive
from vllama_pool.router.protocol.ollama.gojson import ANY, BOOL, INT, OBJECT, STRING, struct
from vllama_pool.router.protocol.operation import DirectResponse, NextStep, UpstreamRequest
from vllama_pool.router.protocol.vllm import api, errors, tokenize
from vllama_pool.router.protocol.vllm.api import VllmTokenCount
from vllama_pool.workers.registry.record import ModelInfo

EMBEDDINGS_PATH = "/v1/embeddings"

BAD_INPUT = "invalid input type"
TOO_LONG = "the input length exceeds the context length"
NO_ROOM = "input after truncation exceeds maximum context length"
CANNOT_EMBED = "this model does not support embeddings"
"""All four are Ollama's own."""

MOST_SPECIAL = 16
"""No model puts more tokens than this around a text."""
MOST_COUNTED = 16
"""Of a large batch only so many texts are counted, the longest ones."""


class _EmbedBody(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    model: str = ""
    input: Any = None
    """A text, or a list of texts."""
    truncate: bool | None = None
    dimensions: int = 0
    keep_alive: Any = None
    options: dict[str, Any] | None = None


class _EmbeddingsBody(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    model: str = ""
    prompt: str = ""
    keep_alive: Any = None
    options: dict[str, Any] | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class EmbedRequest:
    """A request to either endpoint."""

    model: str
    texts: Sequence[str]
    """What is to be embedded; nothing means that the model is to be loaded (R091, R100)."""
    encoded: bytes
    """The texts as a JSON array: a large batch is encoded where it was decoded, outside the event loop."""
    keep_alive: Any
    options: Mapping[str, Any]
    cut: bool = True
    """Whether too long a text is cut rather than refused."""
    dimensions: int = 0
    """Components that are kept of each vector; 0 or less for all."""
    plain: bool = False
    """The older endpoint's: the vector is as the model makes it, of any length."""

    @property
    def stream(self) -> bool:
        """R043."""
        return False


class VectorsRequest(msgspec.Struct, frozen=True, omit_defaults=True, kw_only=True):
    """vLLM's. The numbers of a vector are a third as long in base64."""

    model: str
    input: msgspec.Raw
    encoding_format: str
    truncate_prompt_tokens: int | None = None
    use_activation: bool = True
    """False: not default_messages to length 1."""


_SHARED = {"model": STRING, "keep_alive": ANY, "options": OBJECT}
EMBED = struct("api.EmbedRequest", **_SHARED, input=ANY, truncate=BOOL, dimensions=INT)
EMBEDDINGS = struct("api.EmbeddingRequest", **_SHARED, prompt=STRING)
_embed_decoder = msgspec.json.Decoder(_EmbedBody)
_embeddings_decoder = msgspec.json.Decoder(_EmbeddingsBody)


def decode_embed(body: bytes) -> EmbedRequest:
    """Raises ClientError. A bad `input` comes before a missing model (R166)."""
    request = gojson.decode(body, _embed_decoder, EMBED)
    keep_alive(request.keep_alive)
    texts = _texts(request.input)
    if not request.model.strip():
        raise ModelNotFound(requests.not_found(request.model))
    return EmbedRequest(
        model=request.model,
        texts=texts,
        encoded=api.encode(texts),
        keep_alive=request.keep_alive,
        options=request.options or {},
        cut=request.truncate is not False,
        dimensions=request.dimensions,
    )


def decode_embeddings(body: bytes) -> EmbedRequest:
    """Raises ClientError. One text, and never cut."""
    request = gojson.decode(body, _embeddings_decoder, EMBEDDINGS)
    keep_alive(request.keep_alive)
    if not request.model.strip():
        raise BadRequest("model is required")
    texts = _texts(request.prompt)
    return EmbedRequest(
        model=request.model,
        texts=texts,
        encoded=api.encode(texts),
        keep_alive=request.keep_alive,
        options=request.options or {},
        cut=False,
        plain=True,
    )


def _texts(given: Any) -> list[str]:
    """R100."""
    if given is None or given == "":
        return []
    if isinstance(given, str):
        return [given]
    if not isinstance(given, list) or not all(isinstance(text, str) for text in given):
        raise BadRequest(BAD_INPUT)
    return given


def not_found(model: str) -> str:
    """What both say of a model nobody serves (R148)."""
    return f'model "{model}" not found, try pulling it first'


def check(request: EmbedRequest, info: ModelInfo) -> DirectResponse | None:
    """Types of options, then a load (R091). What the model can do is not asked (R102)."""
    options.check(request.options)
    if request.texts:
        return None
    return DirectResponse(b'{"embedding":[]}' if request.plain else encode({"model": request.model, "embeddings": []}))


def prepare(request: EmbedRequest, info: ModelInfo, defaults: Defaults) -> NextStep:
    """The request to vLLM, after what must be counted where `num_ctx` is below the model's context (R101, R102)."""
    limit = options.int_option(options.merge(request.options, defaults.options, info).get("num_ctx"))
    if limit is None or not info.context_length or limit >= info.context_length:
        return _outgoing(request, info, -1 if request.cut else None)
    if request.cut:
        outgoing = _outgoing(request, info, limit)
        return _room(info, limit, outgoing) if limit <= MOST_SPECIAL else outgoing
    doubtful = [text for text in request.texts if len(text.encode()) + MOST_SPECIAL > limit]
    doubtful.sort(key=len, reverse=True)
    return _counted(doubtful[:MOST_COUNTED], info, limit, _outgoing(request, info, None))


def adapt(request: EmbedRequest, info: ModelInfo, defaults: Defaults, *refusals: AttemptFailed) -> NextStep | None:
    """Nothing helps. Raises Refused in Ollama's words; of the older endpoint every such failure is a 500 (R101)."""
    text, status = refusals[-1].text, refusals[-1].status
    if text == errors.CONTEXT_EXCEEDED:
        text = TOO_LONG
    elif text == errors.WRONG_TASK:
        text, status = CANNOT_EMBED, 501
    raise Refused(text, status=500 if request.plain else status)


def _outgoing(request: EmbedRequest, info: ModelInfo, cut_at: int | None) -> UpstreamRequest:
    body = VectorsRequest(
        model=info.name,
        input=msgspec.Raw(request.encoded),
        encoding_format="base64",
        truncate_prompt_tokens=cut_at,
        use_activation=not request.plain,
    )
    return UpstreamRequest(EMBEDDINGS_PATH, api.encode(body))


def _room(info: ModelInfo, limit: int, then: UpstreamRequest) -> NextStep:
    """Whether so few tokens hold anything of a text besides those that the model puts around each."""

    def judge(empty: VllmTokenCount) -> NextStep:
        if limit <= empty.count:
            raise Refused(NO_ROOM, status=400)
        return then

    return tokenize.count_text(info.name, "", judge)


def _counted(texts: Sequence[str], info: ModelInfo, limit: int, then: UpstreamRequest) -> NextStep:
    """Whether none of the texts is too long."""
    if not texts:
        return then

    def judge(first: VllmTokenCount) -> NextStep:
        if first.count > limit:
            raise Refused(errors.CONTEXT_EXCEEDED, status=400)
        return _counted(texts[1:], info, limit, then)

    return tokenize.count_text(info.name, texts[0], judge)
