"""Response objects of /api/generate (R066-R069)."""

from __future__ import annotations

import msgspec

from vllama_pool.router.protocol import json_lines
from vllama_pool.router.protocol.ollama.chunks import UNFINISHED, Chunk, FinalFields
from vllama_pool.router.protocol.ollama.logprobs import LogprobEntry
from vllama_pool.router.protocol.ollama.render import DebugInfo
from vllama_pool.router.protocol.vllm.tool_calls import ResponseToolCall


class GenerateResponse(msgspec.Struct, frozen=True, omit_defaults=True, kw_only=True):
    """Fields in Ollama's order."""

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
    __slots__ = ("_model", "before_time")

    before_text = b'","response":'
    after_text = b","
    line_end = b',"done":false}\n'

    def __init__(self, model: str) -> None:
        self._model = model
        self.before_time = b'{"model":' + json_lines.encode(model) + b',"created_at":"'

    def chunk(self, timestamp: str, chunk: Chunk, final: FinalFields = UNFINISHED) -> bytes:
        response = GenerateResponse(
            model=self._model,
            created_at=timestamp,
            response=chunk.content,
            thinking=chunk.thinking,
            done=final.done,
            done_reason=final.done_reason,
            context=final.context,
            tool_calls=chunk.tool_calls,
            logprobs=chunk.logprobs,
            total_duration=final.total_duration,
            load_duration=final.load_duration,
            prompt_eval_count=final.prompt_eval_count,
            prompt_eval_duration=final.prompt_eval_duration,
            eval_count=final.eval_count,
            eval_duration=final.eval_duration,
        )
        return json_lines.encode(response)
