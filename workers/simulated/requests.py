"""Request bodies, validated as in vLLM: the shape (pydantic), then the values."""

from __future__ import annotations

from urllib.parse import parse_qsl

from vllama_pool.workers.simulated.checks import (
    MAX_STOP_STRINGS,
    check_generation_prompt,
    check_raw,
    check_raw_chat,
    check_sampling,
)
from vllama_pool.workers.simulated.errors import ApiError, parameter
from vllama_pool.workers.simulated.shapes import (
    ChatBody,
    CompletionRequest,
    DetokenizeRequest,
    EmbeddingRequest,
    SleepQuery,
    TokenizeChat,
    TokenizeRequest,
    TokenizeText,
)
from vllama_pool.workers.simulated.validation import load, validate

MAX_PROMPTS = 1024


def parse_chat(body: bytes, content_type: str, max_stop: int = MAX_STOP_STRINGS) -> ChatBody:
    """Raises ApiError."""
    data = load(body, content_type)
    check_raw(data, max_stop)
    check_raw_chat(data)
    request: ChatBody = validate(ChatBody, data)
    check_sampling(request, wanted_tokens(request))
    return request


def wanted_tokens(request: ChatBody) -> int | None:
    return request.max_completion_tokens if request.max_completion_tokens is not None else request.max_tokens


def parse_completion(body: bytes, content_type: str, max_stop: int = MAX_STOP_STRINGS) -> CompletionRequest:
    """Raises ApiError."""
    data = load(body, content_type)
    check_raw(data, max_stop)
    prompt = data.get("prompt")
    if prompt in (None, ""):
        raise parameter("Either prompt or prompt_embeds must be provided and non-empty.", "prompt")
    if isinstance(prompt, list) and len(prompt) > MAX_PROMPTS and not all(isinstance(part, int) for part in prompt):
        raise parameter(
            f"prompt list length {len(prompt)} exceeds the maximum allowed count of {MAX_PROMPTS}. To increase this "
            "limit, set the VLLM_MAX_COMPLETION_PROMPTS environment variable.",
            "prompt",
        )
    request: CompletionRequest = validate(CompletionRequest, data)
    if request.suffix:
        raise ApiError("suffix is only supported for models with FIM completion rendering", param="suffix")
    if request.prompt == []:
        raise ApiError("You must pass at least one prompt")
    check_sampling(request, 1 if request.echo and request.max_tokens == 0 else request.max_tokens)
    return request


def parse_embedding(body: bytes, content_type: str) -> EmbeddingRequest:
    """Raises ApiError."""
    request: EmbeddingRequest = validate(EmbeddingRequest, load(body, content_type))
    if request.input == []:
        raise ApiError("You must pass at least one prompt")
    return request


def parse_tokenize(body: bytes, content_type: str) -> TokenizeText | TokenizeChat:
    """Raises ApiError."""
    data = load(body, content_type)
    check_generation_prompt(data)
    request: TokenizeText | TokenizeChat = validate(TokenizeRequest, data)
    return request


def parse_detokenize(body: bytes, content_type: str) -> DetokenizeRequest:
    """Raises ApiError."""
    request: DetokenizeRequest = validate(DetokenizeRequest, load(body, content_type))
    return request


def parse_sleep(query: str) -> SleepQuery:
    """Raises ApiError."""
    request: SleepQuery = validate(SleepQuery, dict(parse_qsl(query, keep_blank_values=True)), "query")
    return request
