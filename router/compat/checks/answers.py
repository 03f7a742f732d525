"""Shape of answers of generate and chat."""

from __future__ import annotations

from typing import Any

from vllama_pool.router.compat.checks.check import Check, covers
from vllama_pool.router.compat.expect import (
    JSON,
    NDJSON,
    content_type,
    expect,
    field,
    json_object,
    lacks,
    lines,
    same,
    status,
    timestamp,
)
from vllama_pool.router.compat.server import SHORT, CheckedServer
from vllama_pool.router.compat.wire import RawResponse

DURATIONS = ("total_duration", "load_duration", "prompt_eval_duration", "eval_duration")
COUNTS = ("prompt_eval_count", "eval_count")
NATIVE = ("generate", "chat")
REASONS = ("stop", "length")


async def streamed(server: CheckedServer, endpoint: str, **fields: Any) -> list[dict[str, Any]]:
    """The lines of a short answer. Only the last one may be final."""
    found = lines(await request_answer(server, endpoint, **fields))
    for line in found:
        expect("error" not in line, "no error", line)
        field(line, "done", bool)
        text(endpoint, line)
    expect([line["done"] for line in found].index(True) == len(found) - 1, "done: true on the last line alone", found)
    return found


async def whole(server: CheckedServer, endpoint: str, **fields: Any) -> dict[str, Any]:
    found = json_object(await request_answer(server, endpoint, stream=False, **fields))
    same("done", True, field(found, "done", bool))
    return found


async def request_answer(server: CheckedServer, endpoint: str, **fields: Any) -> RawResponse:
    return await (server.generate(**fields) if endpoint == "generate" else server.chat(**fields))


def text(endpoint: str, line: dict[str, Any]) -> str:
    """Required, but may be empty."""
    if endpoint == "generate":
        return field(line, "response", str)
    message = field(line, "message", dict)
    same("message.role", "assistant", field(message, "role", str, "message."))
    return field(message, "content", str, "message.")


def thinking(endpoint: str, line: dict[str, Any]) -> str:
    """May be absent."""
    holder = line if endpoint == "generate" else field(line, "message", dict)
    found = holder.get("thinking", "")
    expect(isinstance(found, str), "thinking as a text", found)
    return str(found)


def metrics(line: dict[str, Any]) -> None:
    for key in (*DURATIONS, *COUNTS):
        expect(field(line, key, int) > 0, f"{key} above 0", line[key])


def for_both(rules: dict[str, set[int]], name: str, check: Any) -> tuple[Check, ...]:

    def bound(endpoint: str) -> Check:
        async def run(server: CheckedServer) -> None:
            await check(server, endpoint)

        return Check(frozenset(rules[endpoint]), f"{endpoint}: {name}", run)

    return tuple(bound(endpoint) for endpoint in NATIVE)


def both(*rules: int, generate: int | None = None, chat: int | None = None) -> dict[str, set[int]]:
    own = {"generate": generate, "chat": chat}
    return {endpoint: {*rules, *filter(None, [own[endpoint]])} for endpoint in NATIVE}


async def _streams(server: CheckedServer, endpoint: str) -> None:
    response = await request_answer(server, endpoint)
    found = await streamed(server, endpoint)
    content_type(response, NDJSON)
    expect(response.chunks is not None, "Transfer-Encoding: chunked", dict(response.headers))
    for chunk in response.chunks or ():
        expect(chunk.endswith(b"\n"), "whole lines in each chunk", chunk)
    expect(len(found) >= 2, "at least two lines", found)


STREAMS = for_both(both(43, 44, generate=23, chat=24), "streams are lines of JSON", _streams)


async def _stream_texts(server: CheckedServer, endpoint: str) -> None:
    found = await streamed(server, endpoint)
    texts = [(thinking(endpoint, line), text(endpoint, line)) for line in found]
    expect(any(map(any, texts)), "some text", found)
    for text_before, line in zip(texts[:-1], found[:-1], strict=True):
        expect(endpoint == "generate" or any(text_before) or "tool_calls" in line["message"], "no empty lines", line)
        same("model", found[-1].get("model", ""), field(line, "model", str))
        timestamp(field(line, "created_at", str), utc=True)
        lacks(line, "done_reason", *DURATIONS, *COUNTS)
    same("text of the last line", "", texts[-1][1])


STREAM_TEXTS = for_both(both(41, generate=67, chat=84), "texts, then the end", _stream_texts)


async def _ends(server: CheckedServer, endpoint: str) -> None:
    """A stream's last line and a whole answer have the same metrics."""
    for last in ((await streamed(server, endpoint))[-1], await whole(server, endpoint)):
        metrics(last)
        reason = field(last, "done_reason", str)
        expect(reason in REASONS, "done_reason stop or length", reason)
        timestamp(field(last, "created_at", str), utc=True)


ENDS = for_both(both(42, 69, 70), "metrics of the end", _ends)


async def _whole(server: CheckedServer, endpoint: str) -> None:
    response = await request_answer(server, endpoint, stream=False)
    status(response, 200)
    content_type(response, JSON)
    expect(not response.body.endswith(b"\n"), "no newline at the end", response.body[-20:])
    found = await whole(server, endpoint)
    expect(text(endpoint, found) or thinking(endpoint, found), "some text", found)
    same("model", server.model("chat"), field(found, "model", str))


WHOLE = for_both(both(40, generate=68, chat=86), "a whole answer", _whole)


@covers(55)
async def generate_without_streaming_is_one_object(server: CheckedServer) -> None:
    await whole(server, "generate")


@covers(67)
async def generate_returns_its_context(server: CheckedServer) -> None:
    for last in ((await streamed(server, "generate"))[-1], await whole(server, "generate")):
        context = field(last, "context", list)
        expect(context and all(type(token) is int for token in context), "context as a list of integers", context)


@covers(86)
async def chat_has_no_context(server: CheckedServer) -> None:
    for last in ((await streamed(server, "chat"))[-1], await whole(server, "chat")):
        lacks(last, "context", "response")


@covers(69, 126)
async def num_predict_bounds_the_answer(server: CheckedServer) -> None:
    found = await whole(server, "generate", options={**SHORT, "num_predict": 3})
    same("done_reason", "length", field(found, "done_reason", str))
    same("eval_count", 3, field(found, "eval_count", int))


@covers(112)
async def answers_have_no_image_generation_fields(server: CheckedServer) -> None:
    for endpoint in NATIVE:
        lacks(await whole(server, endpoint), "image", "completed", "total")


@covers(40)
async def special_characters_are_escaped(server: CheckedServer) -> None:
    response = await server.send("DELETE", "/api/delete", {"model": "<&>"})
    status(response, 400)
    expect(b"\\u003c\\u0026\\u003e" in response.body, "<&> as \\u003c\\u0026\\u003e", response.body)


@covers(46)
async def errors_before_a_stream_have_a_status(server: CheckedServer) -> None:
    response = await server.post("/api/chat", {"model": "vllama-compat-absent", "messages": [], "stream": True})
    field(json_object(response, code=404), "error", str)
    expect(
        (response.header("content-type") or "").startswith("application/json"), "JSON", response.header("content-type")
    )
