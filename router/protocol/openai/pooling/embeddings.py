"""POST /v1/embeddings: checks, and the request to vLLM (R029, R116)."""

from __future__ import annotations

from typing import Annotated, Any, Final, Literal

import msgspec

from vllama_pool.config.routing.defaults import Defaults
from vllama_pool.router.errors import AttemptFailed, BadRequest
from vllama_pool.router.protocol.openai.model_kinds import EMBEDDING
from vllama_pool.router.protocol.openai.pooling import request as pooling
from vllama_pool.router.protocol.operation import NextStep
from vllama_pool.router.protocol.vllm import api
from vllama_pool.router.protocol.vllm.request_body import BodyDecoder, RefusedFields
from vllama_pool.workers.registry.record import ModelInfo

NO_INPUT = "invalid input"
"""Ollama's text."""
_FORMATS = ("float", "base64")

TokenId = Annotated[int, msgspec.Meta(ge=0, lt=2**32)]


class EmbeddingRequest(pooling.PoolingRequest, frozen=True, omit_defaults=True, kw_only=True):
    input: str | list[str | TokenId | list[TokenId]] | None = None
    encoding_format: str | None = None
    dimensions: int | None = None
    add_special_tokens: bool | None = None
    embed_dtype: Literal["float32", "float16", "bfloat16", "fp8_e4m3", "fp8_e5m2"] | None = None
    endianness: Literal["native", "big", "little"] | None = None


_BODY = BodyDecoder(EmbeddingRequest)
REFUSED: Final = {**pooling.REFUSED, "messages": "send texts or tokens in 'input'"}
_REFUSED = RefusedFields(REFUSED)


def decode(body: bytes) -> EmbeddingRequest:
    """Reports format and input before a missing model, as Ollama does. Raises BadRequest."""
    request = _BODY.decode(body)
    _REFUSED.check(body)
    encoding = _encoding(request.encoding_format)
    _check_input(request.input)
    pooling.check(request)
    pooling.check_integer("dimensions", request.dimensions, 1)
    return msgspec.structs.replace(request, encoding_format=encoding)


def _encoding(name: str | None) -> str | None:
    if not name:
        return None
    if name.lower() not in _FORMATS:
        raise BadRequest(
            f"Invalid value for 'encoding_format' = {name}. Supported values: ['float', 'base64'].",
            param="encoding_format",
        )
    return name.lower()


def _check_input(value: str | list[str | int | list[int]] | None) -> None:
    if value is None or value == []:
        raise BadRequest(NO_INPUT, param="input")
    if isinstance(value, str):
        return
    if len({type(item) for item in value}) > 1:
        raise BadRequest(
            "Invalid type for 'input': expected a text, texts, tokens, or lists of tokens, and only one of these.",
            param="input",
            code="invalid_type",
        )
    if [] in value:
        raise BadRequest(NO_INPUT, param="input")
    if not isinstance(value[0], int):
        pooling.check_length("input", value)


def check(request: EmbeddingRequest, info: ModelInfo) -> None:
    """Raises BadRequest if the model is of another kind."""
    EMBEDDING.require(request.model, info)


def prepare(request: EmbeddingRequest, info: ModelInfo, defaults: Defaults) -> NextStep:
    return pooling.send_within(api.EMBEDDINGS_PATH, request, info, defaults, lambda: _inputs(request.input))


def _inputs(value: Any) -> list[pooling.Input]:
    return [value] if isinstance(value, str) or (value and isinstance(value[0], int)) else value


def adapt(request: EmbeddingRequest, info: ModelInfo, defaults: Defaults, *refusals: AttemptFailed) -> None:
    """Raises Refused with OpenAI's words."""
    pooling.explain(EMBEDDING, request, "input", refusals[-1])
