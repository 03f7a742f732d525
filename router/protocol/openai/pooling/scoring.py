"""POST /rerank and /score, with and without /v1: checks, and the requests to vLLM.

vLLM serves them for cross-encoders and for embedding models.
"""

from __future__ import annotations

from typing import Final, TypeAlias, TypeVar

import msgspec

from vllama_pool.config.routing.defaults import Defaults
from vllama_pool.router.errors import AttemptFailed, BadRequest
from vllama_pool.router.protocol.openai import messages, requests
from vllama_pool.router.protocol.openai.model_kinds import RERANKING, SCORING
from vllama_pool.router.protocol.openai.pooling import request as pooling
from vllama_pool.router.protocol.operation import NextStep
from vllama_pool.router.protocol.vllm import api
from vllama_pool.router.protocol.vllm.request_body import BodyDecoder, RefusedFields, missing_field
from vllama_pool.workers.registry.record import ModelInfo

REFUSED: Final = pooling.REFUSED
_REFUSED = RefusedFields(REFUSED)
_PAIRS = (("text_1", "text_2"), ("queries", "documents"), ("queries", "items"), ("data_1", "data_2"))
"""vLLM's spellings of the two sides. The first is sent, because all releases know it."""
_SIDES = tuple(dict.fromkeys(name for pair in _PAIRS for name in pair))
_KINDS = ("text", "image_url", "video_url")


class Item(msgspec.Struct, frozen=True):
    """A text as in Cohere's and Jina's API, or a list of parts."""

    text: str | None = None
    content: list[messages.Part] | None = None


class Content(msgspec.Struct, frozen=True):
    """An `Item` of parts, as vLLM takes it."""

    content: list[api.VllmPart]


Text: TypeAlias = str | Item
Texts: TypeAlias = str | Item | list[str | Item]


class ScoringRequest(pooling.PoolingRequest, frozen=True, omit_defaults=True, kw_only=True):
    """The fields of both routes."""

    max_tokens_per_query: int | None = None
    max_tokens_per_doc: int | None = None
    instruction: str | None = None
    chat_template_kwargs: dict[str, bool | int | float | str | None] | None = None


class RerankRequest(ScoringRequest, frozen=True, omit_defaults=True, kw_only=True):
    query: Text | None = None
    documents: Texts | None = None
    top_n: int | None = None


class ScoreRequest(ScoringRequest, frozen=True, omit_defaults=True, kw_only=True):
    text_1: Texts | None = None
    text_2: Texts | None = None
    queries: Texts | None = None
    documents: Texts | None = None
    items: Texts | None = None
    data_1: Texts | None = None
    data_2: Texts | None = None


RequestT = TypeVar("RequestT", bound=ScoringRequest)
_RERANK = BodyDecoder(RerankRequest)
_SCORE = BodyDecoder(ScoreRequest)


def decode_rerank(body: bytes) -> RerankRequest:
    """Raises BadRequest."""
    request = _checked(_RERANK.decode(body), body)
    if request.query is None:
        raise missing_field("query")
    if request.documents is None:
        raise missing_field("documents")
    _check_item("query", request.query)
    _check_items("documents", request.documents)
    pooling.check_integer("top_n", request.top_n, 0)
    return request


def decode_score(body: bytes) -> ScoreRequest:
    """Raises BadRequest."""
    request = _checked(_SCORE.decode(body), body)
    first, second = _pair(request)
    left, right = getattr(request, first), getattr(request, second)
    lengths = _check_items(first, left), _check_items(second, right)
    if lengths[0] not in (1, lengths[1]):
        raise BadRequest("Input lengths must be either 1:1, 1:N or N:N", param=second)
    return request


def _checked(request: RequestT, body: bytes) -> RequestT:
    _REFUSED.check(body)
    pooling.check(request)
    requests.check_template_kwargs(request.chat_template_kwargs)
    for name in ("max_tokens_per_query", "max_tokens_per_doc"):
        pooling.check_integer(name, getattr(request, name), 0)
    return request


def _pair(request: ScoreRequest) -> tuple[str, str]:
    """Return the names of the two sides. Raises BadRequest."""
    given = [name for name in _SIDES if getattr(request, name) is not None]
    for pair in _PAIRS:
        if set(given) == set(pair):
            return pair
    partial = next((pair for pair in _PAIRS if set(given) < set(pair)), None)
    if partial is not None:
        raise missing_field(next(name for name in partial if name not in given))
    pairs = ", ".join(f"'{first}' and '{second}'" for first, second in _PAIRS)
    raise BadRequest(f"Too many texts: send one of these pairs, and nothing of the others: {pairs}.", param=given[-1])


def _check_items(name: str, value: Texts) -> int:
    """Return the number of texts. Raises BadRequest."""
    if not isinstance(value, list):
        _check_item(name, value)
        return 1
    pooling.check_length(name, value)
    for position, item in enumerate(value):
        _check_item(f"{name}[{position}]", item)
    return len(value)


def _check_item(path: str, item: Text) -> None:
    if isinstance(item, str) or item.text is not None:
        return
    if not item.content:
        raise missing_field(f"{path}.text")
    for position, part in enumerate(item.content):
        messages.check_part(f"{path}.content[{position}]", part)
        if part.type not in _KINDS:
            kinds = ", ".join(f"'{kind}'" for kind in _KINDS)
            raise BadRequest(
                f"Invalid value: '{part.type}'. Supported values are: {kinds}.",
                param=f"{path}.content[{position}].type",
            )


def check_rerank(request: RerankRequest, info: ModelInfo) -> None:
    """Raises BadRequest if the model is of another kind."""
    RERANKING.require(request.model, info)


def check_score(request: ScoreRequest, info: ModelInfo) -> None:
    """Raises BadRequest if the model is of another kind."""
    SCORING.require(request.model, info)


def prepare_rerank(path: str, request: RerankRequest, info: ModelInfo, defaults: Defaults) -> NextStep:
    sides = {"query": _sent(request.query), "documents": _sent(request.documents)}
    upstream = msgspec.structs.replace(request, **sides)
    return pooling.send_within(path, upstream, info, defaults, lambda: _inputs(request.query, request.documents))


def prepare_score(path: str, request: ScoreRequest, info: ModelInfo, defaults: Defaults) -> NextStep:
    first, second = _pair(request)
    left, right = getattr(request, first), getattr(request, second)
    sides = {"text_1": _sent(left), "text_2": _sent(right)}
    upstream = msgspec.structs.replace(request, **{**dict.fromkeys(_SIDES), **sides})
    return pooling.send_within(path, upstream, info, defaults, lambda: _inputs(left, right))


def _inputs(left: Texts | None, right: Texts | None) -> list[str]:
    """Return the texts of each pair, which the model reads together."""
    first, second = _texts(left), _texts(right)
    return [f"{first[min(index, len(first) - 1)]} {text}" for index, text in enumerate(second)]


def _texts(value: Texts | None) -> list[str]:
    return [_text(item) for item in (value if isinstance(value, list) else [value])]


def _text(item: Text | None) -> str:
    if item is None or isinstance(item, str):
        return item or ""
    return item.text or " ".join(part.text for part in item.content or () if part.text)


def _sent(value: Texts | None) -> object:
    """Return texts as vLLM takes them."""
    if isinstance(value, list):
        return [_sent(item) for item in value]
    if not isinstance(value, Item):
        return value
    if value.text is not None:
        return value.text
    return Content([messages.translate_part(part) for part in value.content or ()])


def adapt_rerank(request: RerankRequest, info: ModelInfo, defaults: Defaults, *refusals: AttemptFailed) -> None:
    """Raises Refused with OpenAI's words."""
    pooling.explain(RERANKING, request, "documents", refusals[-1])


def adapt_score(request: ScoreRequest, info: ModelInfo, defaults: Defaults, *refusals: AttemptFailed) -> None:
    """Raises Refused with OpenAI's words."""
    pooling.explain(SCORING, request, _pair(request)[1], refusals[-1])
