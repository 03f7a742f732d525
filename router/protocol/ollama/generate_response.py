"""How /api/generate writes its objects (R066-R069)."""

from __future__ import annotations

import msgspec

from vllama_pool.router.protocol import json_lines
from vllama_pool.router.protocol.ollama.chunks import Chunk, FinalFields
from vllama_pool.router.protocol.ollama.logprobs import LogprobEntry
from vllama_pool.router.protocol.ollama.render import DebugInfo
from vllama_pool.router.protocol.vllm.tool_calls import ResponseToolCall


class GenerateResponse(msgspec.Struct, frozen=True, omit_defaults=True, kw_only=True):
    """Fields in Ollama's order; those with a default are omitted when empty."""

    model: str
    created_at: str
    response: str
    thinking: str = ""
    done: bool
    done_reason: str = ""
    context: list[int] | None = None
    total_duration: int = 0
    load_duration: int = 0
    prompt_eval_count: int = 0
    prompt_eval_duration: int = 0
    eval_count: int = 0
    eval_duration: int = 0
    tool_calls: list[ResponseToolCall] | None = None
    debug_info: DebugInfo | None = msgspec.field(default=None, name="_debug_info")
    logprobs: list[LogprobEntry] | None = None


class GenerateWriter:
    """Writes generate's objects for one request."""

    __slots__ = ("_head", "_model")

    def __init__(self, model: str) -> None:
        self._model = model
        self._head = b'{"model":' + json_lines.quoted(model) + b',"created_at":"'

    def text(self, stamp: str, content: str) -> bytes:
        return b'%b%b","response":%b,"done":false}' % (self._head, stamp.encode(), json_lines.quoted(content))

    def piece(self, stamp: str, piece: Chunk) -> bytes:
        return json_lines.encode(
            GenerateResponse(
                model=self._model,
                created_at=stamp,
                response=piece.content,
                thinking=piece.thinking,
                done=False,
                tool_calls=piece.tool_calls,
                logprobs=piece.logprobs,
            )
        )

    def final(self, stamp: str, piece: Chunk, final: FinalFields) -> bytes:
        return json_lines.encode(
            GenerateResponse(
                model=self._model,
                created_at=stamp,
                response=piece.content,
                thinking=piece.thinking,
                done=True,
                done_reason=final.done_reason,
                context=final.context,
                total_duration=final.total_duration,
                load_duration=final.load_duration,
                prompt_eval_count=final.prompt_eval_count,
                prompt_eval_duration=final.prompt_eval_duration,
                eval_count=final.eval_count,
                eval_duration=final.eval_duration,
                tool_calls=piece.tool_calls,
                logprobs=piece.logprobs,
            )
        )
