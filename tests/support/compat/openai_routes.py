"""OpenAI's older routes as Ollama answers them: chat completions, completions and embeddings."""

from __future__ import annotations

import base64
import struct
from collections.abc import Iterator, Mapping
from typing import Any

from tests.support.compat.reply import (
    ARGUMENTS,
    PROMPT_TOKENS,
    Refused,
    Reply,
    chatting,
    known,
    picture,
    reply,
    thinks,
    typed,
)

SCHEMAS = ("json_object", "json_schema")
VECTORS = ([0.6, 0.0, 0.8, 0.0], [0.0, 0.6, 0.0, 0.8])


def chat(body: Mapping[str, Any]) -> Iterator[Any]:
    typed(body, stream=bool, temperature=(int, float), max_tokens=int)
    if not body.get("messages"):
        raise Refused(400, "[] is too short - 'messages'")
    for message in body["messages"]:
        valid_message(message)
    format_ = (body.get("response_format") or {}).get("type")
    think = thinks((body.get("reasoning") or {}).get("effort") or body.get("reasoning_effort"))
    chatting(body)
    found = reply(body, body.get("max_tokens"), stop=body.get("stop"), schema=format_ in SCHEMAS, think=think)
    return chat_stream(body, found) if body.get("stream") else iter([chat_answer(body, found)])


def valid_message(message: Mapping[str, Any]) -> None:
    content = message.get("content")
    if not isinstance(content, str | list) and not message.get("tool_calls"):
        raise Refused(400, "invalid message content type: <nil>")
    for part in content if isinstance(content, list) else ():
        if part["type"] == "image_url":
            picture(part["image_url"]["url"])
        elif part["type"] != "text":
            raise Refused(400, "invalid message format")


def call(index: int, name: str) -> dict[str, Any]:
    function = {"name": name, "arguments": ARGUMENTS}
    return {"id": f"call_{index}", "index": index, "type": "function", "function": function}


def usage(found: Reply) -> dict[str, int]:
    total = PROMPT_TOKENS + found.tokens
    return {"prompt_tokens": PROMPT_TOKENS, "completion_tokens": found.tokens, "total_tokens": total}


def logprobs(body: Mapping[str, Any], words: list[str]) -> dict[str, Any]:
    def entry(word: str) -> dict[str, Any]:
        return {"token": word, "logprob": -0.1, "bytes": list(word.encode())}

    if not body.get("logprobs"):
        return {}
    top = body.get("top_logprobs", 0)
    return {"logprobs": {"content": [{**entry(word), "top_logprobs": [entry(word)] * top} for word in words]}}


def head(id_: str, kind: str, found: Reply) -> dict[str, Any]:
    return {"id": id_, "object": kind, "created": 17, "model": found.model, "system_fingerprint": "fp_ollama"}


def chat_answer(body: Mapping[str, Any], found: Reply) -> dict[str, Any]:
    message: dict[str, Any] = {"role": "assistant", "content": found.text}
    if found.thoughts:
        message["reasoning"] = found.thoughts
    if found.calls:
        message["tool_calls"] = [call(index, name) for index, name in enumerate(found.calls)]
    reason = "tool_calls" if found.calls else found.reason
    choice = {"index": 0, "message": message, "finish_reason": reason, **logprobs(body, found.words)}
    return {**head("chatcmpl-1", "chat.completion", found), "choices": [choice], "usage": usage(found)}


def chat_stream(body: Mapping[str, Any], found: Reply) -> Iterator[Any]:
    begin = head("chatcmpl-1", "chat.completion.chunk", found)
    deltas: list[dict[str, Any]] = [{"content": "", "reasoning": found.thoughts}] if found.thoughts else []
    deltas += [{"content": word} for word in found.words]
    if found.calls:
        deltas.append({"content": "", "tool_calls": [call(index, name) for index, name in enumerate(found.calls)]})
    deltas[0]["role"] = "assistant"
    for delta in deltas:
        yield {**begin, "choices": [{"index": 0, "delta": delta, "finish_reason": None}]}
    reason = "tool_calls" if found.calls else found.reason
    yield {**begin, "choices": [{"index": 0, "delta": {}, "finish_reason": reason}]}
    if (body.get("stream_options") or {}).get("include_usage"):
        yield {**begin, "choices": [], "usage": usage(found)}
    yield "[DONE]"


def completions(body: Mapping[str, Any]) -> Iterator[Any]:
    typed(body, prompt=str, stream=bool, temperature=(int, float), max_tokens=int)
    stop = body.get("stop")
    if isinstance(stop, list) and not all(isinstance(each, str) for each in stop):
        raise Refused(400, "invalid type for 'stop' field: float64")
    known(body, Refused(404, "model '' not found"))
    chatting(body, "generate")
    found = reply(body, body.get("max_tokens"), stop=stop)
    begin = head("cmpl-1", "text_completion", found)
    if body.get("stream"):
        return completion_stream(body, found, begin)
    return iter([{**begin, "choices": [completion(found.text, found.reason)], "usage": usage(found)}])


def completion_stream(body: Mapping[str, Any], found: Reply, begin: dict[str, Any]) -> Iterator[Any]:
    with_usage = (body.get("stream_options") or {}).get("include_usage")
    empty = {"usage": dict.fromkeys(usage(found), 0)} if with_usage else {}
    for word in found.words:
        yield {**begin, "choices": [completion(word, None)], **empty}
    yield {**begin, "choices": [completion("", found.reason)], **empty}
    if with_usage:
        yield {**begin, "choices": [], "usage": usage(found)}
    yield "[DONE]"


def completion(text: str, reason: str | None) -> dict[str, Any]:
    return {"text": text, "index": 0, "finish_reason": reason}


def embeddings(body: Mapping[str, Any]) -> Iterator[Any]:
    typed(body, encoding_format=str)
    encoding = body.get("encoding_format") or "float"
    if encoding not in ("float", "base64"):
        raise Refused(400, f"Invalid value for 'encoding_format' = {encoding}.")
    texts = [body["input"]] if isinstance(body.get("input"), str) else body.get("input")
    if not texts or not isinstance(texts, list):
        raise Refused(400, "invalid input")
    model = known(body, Refused(404, "model '' not found"))
    data = []
    for index, text in enumerate(texts):
        vector = VECTORS["green" in text]
        if body.get("dimensions"):
            vector = [1.0, *[0.0] * (body["dimensions"] - 1)]
        packed = base64.b64encode(struct.pack(f"<{len(vector)}f", *vector)).decode()
        data.append({"object": "embedding", "embedding": packed if encoding == "base64" else vector, "index": index})
    return iter([{"object": "list", "data": data, "model": model, "usage": {"prompt_tokens": 3, "total_tokens": 3}}])
