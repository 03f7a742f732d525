"""Response objects of /api/chat."""

from __future__ import annotations

import msgspec

from vllama_pool.router.protocol import json_lines
from vllama_pool.router.protocol.ollama.chunks import UNFINISHED, Chunk, FinalFields
from vllama_pool.router.protocol.ollama.logprobs import LogprobEntry
from vllama_pool.router.protocol.ollama.render import DebugInfo
from vllama_pool.router.protocol.vllm.tool_calls import ResponseToolCall


class ResponseMessage(msgspec.Struct, frozen=True, omit_defaults=True):
    role: str
    content: str
    thinking: str = ""
    tool_calls: list[ResponseToolCall] | None = None


class ChatResponse(msgspec.Struct, frozen=True, omit_defaults=True):
    """Fields in Ollama's order."""

    model: str
    created_at: str
    message: ResponseMessage
    done: bool
    done_reason: str = ""
    debug_info: DebugInfo | None = msgspec.field(default=None, name="_debug_info")
    logprobs: list[LogprobEntry] | None = None
    total_duration: int = 0
    load_duration: int = 0
    prompt_eval_count: int = 0
    prompt_eval_duration: int = 0
    eval_count: int = 0
    eval_duration: int = 0


class ChatWriter:
    __slots__ = ("_model", "before_time")

    before_text = b'","message":{"role":"assistant","content":'
    after_text = b"},"
    line_end = b'},"done":false}\n'

    def __init__(self, model: str) -> None:
        self._model = model
        self.before_time = b'{"model":' + json_lines.encode(model) + b',"created_at":"'

    def chunk(self, timestamp: str, chunk: Chunk, final: FinalFields = UNFINISHED) -> bytes:
        response = ChatResponse(
            self._model,
            timestamp,
            ResponseMessage("assistant", chunk.content, chunk.thinking, chunk.tool_calls),
            final.done,
            final.done_reason,
            None,
            chunk.logprobs,
            final.total_duration,
            final.load_duration,
            final.prompt_eval_count,
            final.prompt_eval_duration,
            final.eval_count,
            final.eval_duration,
        )
        return json_lines.encode(response)
