"""Requests to /v1/chat/completions and /v1/completions.

The structs are the lists of fields that are forwarded. Those of `REFUSED` are refused, and all others are dropped.
"""

from __future__ import annotations

from typing import Final

import msgspec

from vllama_pool.router.errors import BadRequest
from vllama_pool.router.protocol.openai.messages import Message
from vllama_pool.router.protocol.vllm import api
from vllama_pool.router.protocol.vllm.request_body import BodyDecoder, RefusedFields, not_for_clients

REFUSED: Final = {
    "chat_template": "the model's own template is used",
    "functions": "use 'tools'",
    "function_call": "use 'tool_choice'",
    "audio": "answers are text",
    "guided_json": "use 'response_format' or 'structured_outputs'",
    "guided_regex": "use 'structured_outputs'",
    "guided_choice": "use 'structured_outputs'",
    "guided_grammar": "use 'structured_outputs'",
    "vllm_xargs": "leave it out",
    "kv_transfer_params": "leave it out",
    "ec_transfer_params": "leave it out",
    "cache_salt": "leave it out",
    "priority": "leave it out",
    "mm_payload": "send images and audio in messages",
    "mm_processor_kwargs": "leave it out",
    "media_io_kwargs": "leave it out",
    "prompt_embeds": "send the prompt as text or tokens",
    "return_mm_kwargs": "leave it out",
    "routed_experts_prompt_start": "leave it out",
}
"""Fields that reach into the server, or that vLLM ignores although they matter, with advice."""


_RESERVED: Final = frozenset({"chat_template", "tokenize", "messages", "conversation", "tools", "tokenizer_kwargs"})
"""Arguments of the renderer that are not the template's."""


class Generation(api.VllmSampling, omit_defaults=True, kw_only=True):
    """The fields of both endpoints."""

    model: str = ""
    streamed: bool | None = msgspec.field(default=None, name="stream")
    stream_options: api.VllmStreamOptions | None = None
    n: int | None = None
    logit_bias: dict[str, float] | None = None
    user: str | None = None
    use_beam_search: bool | None = None
    length_penalty: float | None = None
    stop_token_ids: list[int] | None = None
    include_stop_str_in_output: bool | None = None
    ignore_eos: bool | None = None
    min_tokens: int | None = None
    skip_special_tokens: bool | None = None
    spaces_between_special_tokens: bool | None = None
    truncation_side: str | None = None
    prompt_logprobs: int | None = None
    allowed_token_ids: list[int] | None = None
    bad_words: list[str] | None = None
    echo: bool | None = None
    add_special_tokens: bool | None = None
    response_format: msgspec.Raw = msgspec.Raw()
    structured_outputs: msgspec.Raw = msgspec.Raw()
    repetition_detection: msgspec.Raw = msgspec.Raw()
    thinking_token_budget: int | None = None
    return_token_ids: bool | None = None
    return_tokens_as_token_ids: bool | None = None

    keep_alive = None

    @property
    def stream(self) -> bool:
        return self.streamed is True

    @property
    def streams_answer(self) -> bool:
        return self.streamed is True

    @property
    def includes_usage(self) -> bool:
        return self.stream_options is not None and self.stream_options.include_usage

    def ask_usage(self) -> None:
        """Ask the worker for the usage, which the log and the metrics need."""
        if self.stream_options is None or not self.stream_options.include_usage:
            self.stream_options = api.INCLUDE_USAGE

    def limit_minimum(self, limit: int) -> None:
        """Lower `min_tokens` to the limit on the answer: vLLM refuses a higher one."""
        if self.min_tokens is not None and self.min_tokens > limit:
            self.min_tokens = limit


EFFORTS: Final = ("none", "minimal", "low", "medium", "high", "xhigh", "max", "ultra")
"""Of thinking. vLLM knows all but the last, which is Codex's word for "max"."""


class Reasoning(msgspec.Struct, frozen=True):
    effort: str | None = None


class NamedFunction(msgspec.Struct, frozen=True):
    name: str


class NamedTool(msgspec.Struct, frozen=True):
    function: NamedFunction | None = None
    type: str = "function"


class Tool(msgspec.Struct, frozen=True):
    function: api.VllmToolFunction | None = None
    type: str = "function"


class ChatCompletionRequest(Generation, omit_defaults=True, kw_only=True):
    messages: list[Message] | None = None
    max_completion_tokens: int | None = None
    logprobs: bool | None = None
    top_logprobs: int | None = None
    tools: list[Tool] | None = None
    tool_choice: str | NamedTool | None = None
    parallel_tool_calls: bool | None = None
    reasoning_effort: str | None = None
    reasoning: Reasoning | None = None
    include_reasoning: bool | None = None
    service_tier: str | None = None
    add_generation_prompt: bool | None = None
    continue_final_message: bool | None = None
    documents: list[dict[str, str]] | None = None
    chat_template_kwargs: dict[str, bool | int | float | str | None] | None = None


class CompletionRequest(Generation, omit_defaults=True, kw_only=True):
    prompt: str | list[str | int | list[int]] | None = None
    suffix: str | None = None
    best_of: int | None = None
    logprobs: int | None = None


CHAT = BodyDecoder(ChatCompletionRequest)
COMPLETION = BodyDecoder(CompletionRequest)
refuse_server_fields = RefusedFields(REFUSED).check


def require_model(name: str) -> None:
    """Raises BadRequest (R146)."""
    if not name.strip():
        raise BadRequest("model is required", param="model", code="missing_required_parameter")


def check_choices(name: str, count: int | None, limit: int) -> None:
    """Raises BadRequest. `limit`: a setting, because each choice takes a place in the worker's batch."""
    if count is None:
        return
    if count < 1:
        raise below_minimum(name, count)
    if count > limit:
        raise BadRequest(
            f"Invalid '{name}': integer above maximum value. Expected a value <= {limit}, but got {count} instead.",
            param=name,
            code="integer_above_max_value",
        )


def below_minimum(name: str, value: int, minimum: int = 1) -> BadRequest:
    return BadRequest(
        f"Invalid '{name}': integer below minimum value. Expected a value >= {minimum}, but got {value} instead.",
        param=name,
        code="integer_below_min_value",
    )


def check_template_kwargs(kwargs: dict[str, bool | int | float | str | None] | None) -> None:
    """Raises BadRequest."""
    if kwargs and not _RESERVED.isdisjoint(kwargs):
        name = f"chat_template_kwargs.{min(_RESERVED & kwargs.keys())}"
        raise not_for_clients(name, "the router sets it")
