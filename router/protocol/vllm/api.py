"""The part of vLLM's OpenAI API that the router uses.

Requests consist of these types only: no unknown fields or URLs reach a worker.
"""

from __future__ import annotations

from typing import Annotated, Any, Self, TypeVar

import msgspec

CHAT_PATH = "/v1/chat/completions"
COMPLETIONS_PATH = "/v1/completions"
TOKENIZE_PATH = "/tokenize"
DETOKENIZE_PATH = "/detokenize"
EMBEDDINGS_PATH = "/v1/embeddings"
MESSAGES_PATH = "/v1/messages"
COUNT_TOKENS_PATH = "/v1/messages/count_tokens"
RESPONSES_PATH = "/v1/responses"
COMPLETION_TOKENS = 16
"""vLLM's max_tokens of /v1/completions."""


class VllmStreamOptions(msgspec.Struct, frozen=True, omit_defaults=True):
    include_usage: bool = False
    continuous_usage_stats: bool = False
    """With every event."""


INCLUDE_USAGE = VllmStreamOptions(include_usage=True)


class VllmFunctionCall(msgspec.Struct, frozen=True):
    name: str
    arguments: str
    """JSON object as text."""


class VllmToolCall(msgspec.Struct, frozen=True):
    id: str
    function: VllmFunctionCall
    type: str = "function"


class VllmImageUrl(msgspec.Struct, frozen=True, omit_defaults=True):
    url: str
    detail: str | None = None


class VllmInputAudio(msgspec.Struct, frozen=True):
    data: str
    format: str


class VllmPart(msgspec.Struct, frozen=True, omit_defaults=True):
    type: str
    text: str | None = None
    image_url: VllmImageUrl | None = None
    input_audio: VllmInputAudio | None = None
    audio_url: VllmImageUrl | None = None
    video_url: VllmImageUrl | None = None


class VllmMessage(msgspec.Struct, frozen=True, omit_defaults=True):
    role: str
    content: str | list[VllmPart] | None = None
    """None only with tool calls."""
    reasoning: str | None = None
    tool_calls: list[VllmToolCall] | None = None
    tool_call_id: str | None = None
    name: str | None = None


class VllmToolFunction(msgspec.Struct, frozen=True, omit_defaults=True):
    name: str
    description: str | None = None
    parameters: msgspec.Raw = msgspec.Raw()
    """JSON schema. Not `Raw | None`, which decodes null only."""
    strict: bool | None = None


class VllmTool(msgspec.Struct, frozen=True):
    function: VllmToolFunction
    type: str = "function"


class VllmJsonSchema(msgspec.Struct, frozen=True):
    name: str
    schema: msgspec.Raw


class VllmResponseFormat(msgspec.Struct, frozen=True, omit_defaults=True):
    type: str
    json_schema: VllmJsonSchema | None = None


class VllmSampling(msgspec.Struct, omit_defaults=True, kw_only=True):
    max_tokens: int | None = None
    temperature: float | None = None
    top_k: int | None = None
    top_p: float | None = None
    min_p: float | None = None
    repetition_penalty: float | None = None
    presence_penalty: float | None = None
    frequency_penalty: float | None = None
    seed: int | None = None
    stop: str | list[str] | None = None
    truncate_prompt_tokens: int | None = None
    """Tokens kept, at the prompt's end."""
    stream_interval: int | None = None
    """Tokens per event; the first and the last event come at once. Releases before 0.32 ignore it."""

    def copy(self) -> Self:
        return self.__copy__()  # type: ignore[attr-defined, no-any-return]  # what copy.copy calls, twice as fast


class VllmChatRequest(VllmSampling, omit_defaults=True, kw_only=True):
    model: str
    messages: list[VllmMessage]
    stream: bool
    stream_options: VllmStreamOptions
    tools: list[VllmTool] | None = None
    response_format: VllmResponseFormat | None = None
    chat_template_kwargs: dict[str, bool] | None = None
    reasoning_effort: str | None = None
    add_generation_prompt: bool = True
    continue_final_message: bool = False
    logprobs: bool = False
    top_logprobs: int | None = None
    return_token_ids: bool = False


class VllmCompletionRequest(VllmSampling, omit_defaults=True, kw_only=True):
    model: str
    prompt: str | list[int]
    stream: bool
    stream_options: VllmStreamOptions
    suffix: str | None = None
    response_format: VllmResponseFormat | None = None
    logprobs: int | None = None
    return_token_ids: bool = False


RequestT = TypeVar("RequestT", bound=VllmSampling)


class VllmEmbeddingRequest(msgspec.Struct, frozen=True, omit_defaults=True, kw_only=True):
    model: str
    input: msgspec.Raw
    encoding_format: str
    """A third of the size of decimal numbers."""
    truncate_prompt_tokens: int | None = None
    use_activation: bool = True
    """False: not normalised."""


class VllmTokenizeChatRequest(msgspec.Struct, frozen=True, omit_defaults=True):
    model: str
    messages: list[VllmMessage]
    tools: list[VllmTool] | None = None
    chat_template_kwargs: dict[str, bool | str] | None = None
    return_token_strs: bool = False
    add_generation_prompt: bool = True
    continue_final_message: bool = False


class VllmTokenizeTextRequest(msgspec.Struct, frozen=True):
    model: str
    prompt: str


class VllmTokenCount(msgspec.Struct, frozen=True):
    """/tokenize's response without the tokens, which decodes ten times as fast."""

    count: int
    max_model_len: int


class VllmTokenized(msgspec.Struct, frozen=True):
    tokens: list[int]
    max_model_len: int
    token_strs: list[str | None] | None = None


class VllmDetokenizeRequest(msgspec.Struct, frozen=True):
    model: str
    tokens: list[int]


class VllmDetokenized(msgspec.Struct, frozen=True):
    prompt: str


Count = Annotated[int, msgspec.Meta(ge=0, lt=1 << 48)]
"""Of tokens. Others would falsify the metrics."""


class VllmUsage(msgspec.Struct, frozen=True, gc=False):
    prompt_tokens: Count = 0
    completion_tokens: Count | None = None


class VllmMetrics(msgspec.Struct, frozen=True, gc=False):
    """Milliseconds. Sent with --enable-per-request-metrics."""

    time_to_first_token_ms: float | None = None
    generation_time_ms: float | None = None


class VllmFunctionDelta(msgspec.Struct, frozen=True, gc=False):
    name: str | None = None
    arguments: Any = None
    """A part of the JSON text. Some other servers send the object."""


class VllmToolCallDelta(msgspec.Struct, frozen=True, gc=False):
    index: int | None = None
    id: str | None = None
    function: VllmFunctionDelta | None = None


class VllmDelta(msgspec.Struct, frozen=True, gc=False):
    content: str | None = None
    reasoning: str | None = None
    reasoning_content: str | None = None
    """`reasoning` in other releases."""
    tool_calls: list[VllmToolCallDelta] | None = None


class VllmTokenLogprob(msgspec.Struct, frozen=True, gc=False):
    token: str
    logprob: float | None = None
    top_logprobs: list[VllmTokenLogprob] | None = None


class VllmLogprobs(msgspec.Struct, frozen=True, gc=False):
    """Chats have `content`, completions the parallel lists."""

    content: list[VllmTokenLogprob] | None = None
    tokens: list[str] | None = None
    token_logprobs: list[float | None] | None = None
    top_logprobs: list[dict[str, float] | None] | None = None


class VllmChoice(msgspec.Struct, frozen=True, gc=False):
    index: int = 0
    delta: VllmDelta | None = None
    text: str | None = None
    finish_reason: str | None = None
    stop_reason: int | str | None = None
    logprobs: VllmLogprobs | None = None
    token_ids: list[int] | None = None
    prompt_token_ids: list[int] | None = None


class VllmErrorBody(msgspec.Struct, frozen=True, gc=False):
    message: str | None = None
    type: str | None = None
    param: str | None = None
    code: int | str | None = None


class VllmEvent(msgspec.Struct, frozen=True, gc=False):
    choices: list[VllmChoice] | None = None
    usage: VllmUsage | None = None
    metrics: VllmMetrics | None = None
    error: VllmErrorBody | str | None = None


class VllmFirstEvent(VllmEvent, frozen=True, gc=False):
    """An event with the prompt's token ids, which take time to decode."""

    prompt_token_ids: list[int] | None = None


class VllmChunk(VllmEvent, frozen=True, gc=False):
    """An event with the model's name."""

    model: str = ""


class VllmEmbedding(msgspec.Struct, frozen=True, gc=False):
    embedding: str | list[float]
    index: int = 0


class VllmEmbeddingResponse(msgspec.Struct, frozen=True):
    data: list[VllmEmbedding]
    usage: VllmUsage = VllmUsage()


_encoder = msgspec.json.Encoder()
encode = _encoder.encode
decode_event = msgspec.json.Decoder(VllmEvent).decode
decode_first_event = msgspec.json.Decoder(VllmFirstEvent).decode
decode_chunk = msgspec.json.Decoder(VllmChunk).decode
INVALID_JSON = (msgspec.DecodeError, UnicodeDecodeError, RecursionError)
"""Raised by the decoders."""
decode_embeddings = msgspec.json.Decoder(VllmEmbeddingResponse).decode
