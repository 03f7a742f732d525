"""The responses of /v1/responses."""

from __future__ import annotations

import secrets
from collections.abc import Sequence
from typing import Any

import msgspec

from vllama_pool.workers.simulated.answers import Kind, Token
from vllama_pool.workers.simulated.chat import call_id
from vllama_pool.workers.simulated.collector import Collected
from vllama_pool.workers.simulated.counts import Counts, whole_timings
from vllama_pool.workers.simulated.errors import ApiError
from vllama_pool.workers.simulated.logprobs import chat_logprobs
from vllama_pool.workers.simulated.streams import ResponseHead, Stream, Writer

DELTAS = {
    Kind.REASONING: "response.reasoning_text",
    Kind.CONTENT: "response.output_text",
    Kind.CALL: "response.function_call_arguments",
}
PREFIXES = {Kind.REASONING: "rs_", Kind.CONTENT: "msg_", Kind.CALL: "fc_"}


class ResponsesStream(Stream):
    def __init__(self, head: ResponseHead, counts: Counts, writer: Writer) -> None:
        super().__init__(head, counts, writer)
        self._number = 0
        self._output: list[dict[str, Any]] = []
        self._item: dict[str, Any] = {}
        self._kind: Kind | None = None
        """Of the open item."""
        self._text = ""
        self._logprobs: list[dict[str, Any]] = []
        self._calls = 0
        self._finish = ""

    def begin(self) -> None:
        """These events come before the first token."""
        self._open()

    def open(self) -> None:
        started = response(self.head, self.counts, [], "in_progress", usage=None)
        self._send("response.created", response=started)
        self._send("response.in_progress", response=started)

    def group(self, index: int, group: Sequence[Token], finish: str, stop_reason: str | None) -> None:
        kind = group[0].kind
        text = "".join(token.text for token in group)
        self._finish = finish
        if kind is Kind.CALL:
            self._call(text)
        elif kind is Kind.ARGUMENTS and text and not self._is_hidden:
            self._delta(Kind.CALL, text, {})
        elif kind is Kind.REASONING and text and self.head.include_reasoning:
            self._start(kind, reasoning_item(None, "in_progress"))
            self._delta(kind, text, {"content_index": 0})
        elif kind is Kind.CONTENT and text:
            self._start(kind, message_item(None, None))
            self._delta(kind, text, {"content_index": 0, "logprobs": self._take_logprobs(group)})

    def end(self) -> None:
        self._close()
        final = response(self.head, self.counts, self._output, self._finish, usage=usage(self.counts))
        self._send("response.completed", response=final)

    def empty(self) -> None:
        self._open()
        self.broken = True

    def fail(self, error: ApiError) -> None:
        """vLLM closes the connection without an event."""
        self.empty()

    @property
    def _is_hidden(self) -> bool:
        return self.head.max_calls is not None and self._calls > self.head.max_calls

    def _call(self, name: str) -> None:
        self._calls += 1
        if self._is_hidden:
            return
        self._close()
        self._start(Kind.CALL, call_item(name, "", "in_progress"))

    def _start(self, kind: Kind, item: dict[str, Any]) -> None:
        if self._kind is kind:
            return
        self._close()
        self._kind, self._item, self._text, self._logprobs = kind, item, "", []
        self._at_output("response.output_item.added", item=item)
        if kind is not Kind.CALL:
            part = {"text": "", "type": "reasoning_text"} if kind is Kind.REASONING else text_part("", [])
            self._at_item("response.content_part.added", content_index=0, part=part)

    def _delta(self, kind: Kind, text: str, fields: dict[str, Any]) -> None:
        self._text += text
        self._at_item(f"{DELTAS[kind]}.delta", delta=text, **fields)

    def _close(self) -> None:
        kind, text = self._kind, self._text
        if kind is None:
            return
        self._kind = None
        if kind is Kind.CALL:
            item = {**self._item, "arguments": text, "status": "completed"}
            self._at_item(f"{DELTAS[kind]}.done", arguments=text, name=item["name"])
        elif kind is Kind.REASONING:
            item = {**reasoning_item(text, "completed"), "id": self._item["id"]}
            self._at_item(f"{DELTAS[kind]}.done", content_index=0, text=text)
            self._at_item("response.content_part.done", content_index=0, part=item["content"][0])
        else:
            item = {**message_item(text, self._logprobs or None), "id": self._item["id"]}
            self._at_item(f"{DELTAS[kind]}.done", content_index=0, text=text, logprobs=[])
            self._at_item("response.content_part.done", content_index=0, part=item["content"][0])
        self._at_output("response.output_item.done", item=item)
        self._output.append(item)

    def _take_logprobs(self, group: Sequence[Token]) -> list[dict[str, Any]]:
        if self.head.logprobs is None or not self.head.include_reasoning:
            return []
        found = chat_logprobs(group, self.head.logprobs)
        self._logprobs += found
        return [_without_bytes(entry) for entry in found]

    def _at_output(self, kind: str, **fields: Any) -> None:
        self._send(kind, output_index=len(self._output), **fields)

    def _at_item(self, kind: str, **fields: Any) -> None:
        self._at_output(kind, item_id=self._item["id"], **fields)

    def _send(self, kind: str, **fields: Any) -> None:
        data = msgspec.json.encode({**fields, "sequence_number": self._number, "type": kind})
        self._number += 1
        self._write(b"event: %b\ndata: %b\n\n" % (kind.encode(), data))


def responses_response(head: ResponseHead, counts: Counts, sequences: Sequence[Collected]) -> dict[str, Any]:
    [collected] = sequences
    return response(head, counts, _output(head, collected), collected.finish, usage=usage(counts))


def response(
    head: ResponseHead,
    counts: Counts,
    output: Sequence[dict[str, Any]],
    finish: str,
    *,
    usage: dict[str, Any] | None,
) -> dict[str, Any]:
    """`finish` is "in_progress" before the end."""
    status = {"length": "incomplete", "in_progress": "in_progress"}.get(finish, "completed")
    timings = whole_timings(counts) if head.timings and usage is not None else None
    return {
        "id": head.id,
        "created_at": head.created,
        "incomplete_details": {"reason": "max_output_tokens"} if status == "incomplete" else None,
        "model": head.model,
        "object": "response",
        "output": list(output),
        "max_output_tokens": head.limit,
        "status": status,
        "usage": usage,
        **head.request,
        **({"metrics": timings} if timings is not None else {}),
    }


def usage(counts: Counts) -> dict[str, Any]:
    final = counts.final()
    return {
        "input_tokens": final["prompt_tokens"],
        "input_tokens_details": {
            "cached_tokens": 0,
            "cache_write_tokens": 0,
            "input_tokens_per_turn": [],
            "cached_tokens_per_turn": [],
        },
        "output_tokens": final["completion_tokens"],
        "output_tokens_details": {
            "reasoning_tokens": sum(counts.reasoning),
            "tool_output_tokens": 0,
            "output_tokens_per_turn": [],
            "tool_output_tokens_per_turn": [],
        },
        "total_tokens": final["total_tokens"],
    }


def reasoning_item(text: str | None, status: str | None) -> dict[str, Any]:
    """`text` is None before the end."""
    return {
        "id": _item_id(Kind.REASONING),
        "summary": [],
        "type": "reasoning",
        "content": None if text is None else [{"text": text, "type": "reasoning_text"}],
        "encrypted_content": None,
        "status": status,
    }


def message_item(text: str | None, logprobs: list[dict[str, Any]] | None) -> dict[str, Any]:
    """`text` is None before the end."""
    return {
        "id": _item_id(Kind.CONTENT),
        "content": [] if text is None else [text_part(text, logprobs)],
        "role": "assistant",
        "status": "in_progress" if text is None else "completed",
        "type": "message",
        "phase": None,
    }


def call_item(name: str, arguments: str, status: str) -> dict[str, Any]:
    return {
        "arguments": arguments,
        "call_id": call_id(),
        "name": name,
        "type": "function_call",
        "id": _item_id(Kind.CALL),
        "async": None,
        "caller": None,
        "namespace": None,
        "status": status,
    }


def text_part(text: str, logprobs: list[dict[str, Any]] | None) -> dict[str, Any]:
    return {"annotations": [], "text": text, "type": "output_text", "logprobs": logprobs}


def _output(head: ResponseHead, collected: Collected) -> list[dict[str, Any]]:
    """A text beside a call is missing, as in the chat's answer."""
    items: list[dict[str, Any]] = []
    reasoning = collected.text(Kind.REASONING) if head.include_reasoning else ""
    if reasoning:
        items.append(reasoning_item(reasoning, None))
    calls = collected.calls(head.max_calls)
    if collected.content and not calls:
        shows = head.logprobs is not None and head.include_reasoning
        logprobs = chat_logprobs(collected.tokens, head.logprobs or 0) if shows else None
        items.append(message_item(collected.content, logprobs))
    return items + [call_item(name, arguments, "completed") for name, arguments in calls]


def _without_bytes(entry: dict[str, Any]) -> dict[str, Any]:
    shown = {key: entry[key] for key in ("token", "logprob")}
    return {**shown, "top_logprobs": [{key: top[key] for key in shown} for top in entry["top_logprobs"]]}


def _item_id(kind: Kind) -> str:
    return PREFIXES[kind] + secrets.token_hex(8)
