"""Scores of pairs of texts: the cosine of their embeddings, as vLLM scores with an embedding model."""

from __future__ import annotations

import secrets
import time
from collections.abc import Sequence
from typing import Annotated, Any

from pydantic import Field

from vllama_pool.workers.simulated import embedding, errors
from vllama_pool.workers.simulated.errors import ApiError
from vllama_pool.workers.simulated.options import Options
from vllama_pool.workers.simulated.shapes import Shape
from vllama_pool.workers.simulated.validation import load, validate


class _Content(Shape):
    content: list[dict[str, Any]]


_Input = str | _Content
_Inputs = _Input | list[_Input]


class _Scoring(Shape):
    model: str | None = None
    user: str | None = None
    truncate_prompt_tokens: Annotated[int, Field(ge=-1)] | None = None
    request_id: str | None = None
    max_tokens_per_query: int = 0
    max_tokens_per_doc: int = 0


class RerankRequest(_Scoring):
    query: _Input
    documents: _Inputs
    top_n: Annotated[int, Field(ge=0)] = 0


class _ScoreDocuments(_Scoring):
    queries: _Inputs
    documents: _Inputs


class _ScoreItems(_Scoring):
    queries: _Inputs
    items: _Inputs


class _ScoreData(_Scoring):
    data_1: _Inputs
    data_2: _Inputs


class _ScoreText(_Scoring):
    text_1: _Inputs
    text_2: _Inputs


ScoreRequest = _ScoreDocuments | _ScoreItems | _ScoreData | _ScoreText
_PAIRS = (("queries", "documents"), ("queries", "items"), ("data_1", "data_2"), ("text_1", "text_2"))


def rerank(body: bytes, content_type: str, options: Options) -> dict[str, Any]:
    """Return the answer of /rerank. Raises ApiError."""
    request: RerankRequest = validate(RerankRequest, load(body, content_type))
    documents = _texts(request.documents)
    scores, count = _scores(request, [request.query], request.documents, options)
    results = [
        {"index": index, "document": {"text": documents[index], "multi_modal": None}, "relevance_score": score}
        for index, score in sorted(enumerate(scores), key=lambda pair: -pair[1])
    ]
    return {
        "id": _id(request),
        "model": options.model,
        "usage": {"prompt_tokens": count, "total_tokens": count},
        "results": results[: request.top_n or None],
    }


def score(body: bytes, content_type: str, options: Options) -> dict[str, Any]:
    """Return the answer of /score. Raises ApiError."""
    request: Any = validate(ScoreRequest, load(body, content_type))
    first, second = next(pair for pair in _PAIRS if all(name in request.model_fields_set for name in pair))
    scores, count = _scores(request, getattr(request, first), getattr(request, second), options)
    usage = {
        "prompt_tokens": count,
        "total_tokens": count,
        "completion_tokens": 0,
        "prompt_tokens_details": None,
        "completion_tokens_details": None,
    }
    return {
        "id": _id(request),
        "object": "list",
        "created": int(time.time()),
        "model": options.model,
        "data": [{"index": index, "object": "score", "score": found} for index, found in enumerate(scores)],
        "usage": usage,
    }


def _scores(
    request: _Scoring, first: _Inputs | Sequence[_Input], second: _Inputs, options: Options
) -> tuple[list[float], int]:
    """Return the scores and the number of tokens."""
    if request.model and request.model not in options.names:
        raise errors.unknown_model(request.model, ())
    embedding.check_truncation(request.truncate_prompt_tokens, options)
    queries, documents = _texts(first), _texts(second)
    if len(queries) > 1 and len(queries) != len(documents):
        raise ApiError("Input lengths must be either 1:1, 1:N or N:N")
    if not queries:
        raise ApiError("At least one text element must be given")
    if not documents:
        raise ApiError("At least one text_pair element must be given")
    most = [_most(request.max_tokens_per_query, "query", options), _most(request.max_tokens_per_doc, "doc", options)]
    tokens = [
        [_tokenize(text, request, limit, options) for text in texts]
        for texts, limit in zip((queries, documents), most, strict=True)
    ]
    vectors = [[embedding.vector(ids, options.dimensions) for ids in part] for part in tokens]
    pairs = zip(vectors[0] * (len(documents) if len(queries) == 1 else 1), vectors[1], strict=True)
    scores = [sum(a * b for a, b in zip(one, other, strict=True)) for one, other in pairs]
    return scores, sum(len(ids) for part in tokens for ids in part)


def _tokenize(text: str, request: _Scoring, most: int, options: Options) -> list[int]:
    tokens = embedding.tokenize(text, -1 if most else request.truncate_prompt_tokens, options.max_model_len)
    return [*tokens[: most + 1], tokens[-1]] if most and len(tokens) > most + 2 else tokens


def _most(value: int, kind: str, options: Options) -> int:
    name = f"max_tokens_per_{kind}"
    if value < 0:
        raise ApiError(f"{name} must be a non-negative integer")
    if value >= options.max_model_len:
        raise ApiError(f"{name} ({value}) must be less than max_model_len ({options.max_model_len}).")
    return value


def _texts(inputs: _Inputs | Sequence[_Input]) -> list[str]:
    """Raises ApiError for contents of other kinds."""
    listed = [inputs] if isinstance(inputs, str | _Content) else list(inputs)
    if any(not isinstance(text, str) for text in listed):
        raise ApiError("MultiModalParam is not supported for BertModel")
    return [text for text in listed if isinstance(text, str)]


def _id(request: _Scoring) -> str:
    return f"score-{request.request_id or secrets.token_hex(8)}"
