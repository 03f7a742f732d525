"""Requests to /v1/messages and /v1/messages/count_tokens.

The structs are the lists of fields that are forwarded, but for `metadata`. Those of `REFUSED` are refused, and all
others are dropped.
"""

from __future__ import annotations

from typing import Final, Self

import msgspec

from vllama_pool.router.protocol.anthropic.blocks import Block, read_block
from vllama_pool.router.protocol.vllm.request_body import BodyDecoder, RefusedFields

REFUSED: Final = {
    "chat_template": "the model's own template is used",
    "chat_template_kwargs": "use 'thinking' and 'output_config'",
    "vllm_xargs": "leave it out",
    "kv_transfer_params": "leave it out",
    "ec_transfer_params": "leave it out",
    "cache_salt": "leave it out",
    "priority": "leave it out",
    "watermarking": "leave it out",
    "mm_payload": "send images in messages",
    "return_mm_kwargs": "leave it out",
}
"""Fields that reach into the server, with advice."""

NO_METADATA: Final = msgspec.Raw()


class Message(msgspec.Struct, frozen=True):
    role: str
    content: str | list[Block]


class Tool(msgspec.Struct, frozen=True, omit_defaults=True):
    name: str = ""
    input_schema: dict[str, msgspec.Raw] | None = None
    description: str | None = None
    strict: bool | None = None
    type: str | None = None
    """Absent or "custom", or a built-in tool."""


class ToolChoice(msgspec.Struct, frozen=True, omit_defaults=True):
    type: str = ""
    name: str | None = None
    disable_parallel_tool_use: bool | None = None


class ThinkingConfig(msgspec.Struct, frozen=True, omit_defaults=True):
    type: str = ""
    budget_tokens: int | None = None


class OutputFormat(msgspec.Struct, frozen=True, omit_defaults=True):
    type: str = ""
    schema: dict[str, msgspec.Raw] | None = None


class OutputConfig(msgspec.Struct, frozen=True, omit_defaults=True):
    effort: str | None = None
    format: OutputFormat | None = None


class Prompt(msgspec.Struct, omit_defaults=True, kw_only=True):
    """The fields of both endpoints."""

    model: str = ""
    messages: list[Message] | None = None
    system: str | list[Block] | None = None
    tools: list[Tool] | None = None
    tool_choice: ToolChoice | None = None
    thinking: ThinkingConfig | None = None
    output_config: OutputConfig | None = None
    metadata: msgspec.Raw = NO_METADATA
    """Read by rules of the routing file; not forwarded."""

    keep_alive = None
    stream = False
    streams_answer = False

    def copy(self) -> Self:
        return self.__copy__()  # type: ignore[attr-defined, no-any-return]  # what copy.copy calls, twice as fast


class MessagesRequest(Prompt, omit_defaults=True, kw_only=True):
    max_tokens: int | None = None
    streamed: bool | None = msgspec.field(default=None, name="stream")
    stop_sequences: list[str] | None = None
    temperature: float | None = None
    top_k: int | None = None
    top_p: float | None = None

    @property
    def stream(self) -> bool:  # type: ignore[override]
        return self.streamed is True

    @property
    def streams_answer(self) -> bool:  # type: ignore[override]
        return self.streamed is True


class CountTokensRequest(Prompt, omit_defaults=True, kw_only=True):
    pass


class _OutputFormat(msgspec.Struct, frozen=True):
    output_format: OutputFormat | None = None


MESSAGES = BodyDecoder(MessagesRequest, read_block)
COUNT_TOKENS = BodyDecoder(CountTokensRequest, read_block)
OUTPUT_FORMAT = BodyDecoder(_OutputFormat)
"""The former name of `output_config.format`."""
refuse_server_fields = RefusedFields(REFUSED).check
