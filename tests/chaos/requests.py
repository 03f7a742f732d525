"""Requests whose answers are known in advance, and the judgement of what a client received. Pure.

A request is complete, refused by one well-formed error, or lost; everything else that a client may see is a loss.
"""

from __future__ import annotations

import enum
import json
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

from vllama_pool.workers.simulated import vocabulary as v
from vllama_pool.workers.simulated.answers import AnswerPlan, answer

Json = dict[str, Any]
HOST = "localhost"


class Result(enum.StrEnum):
    COMPLETE = "complete"
    ERROR = "error"
    """One well-formed error, before or within the answer."""
    LOST = "lost"


@dataclass(frozen=True, slots=True)
class Verdict:
    result: Result
    kind: str = ""
    """Of an error: its status as text, or "line" for one within a stream."""
    why: str = ""


COMPLETE = Verdict(Result.COMPLETE)


class Route(enum.StrEnum):
    CHAT_STREAM = "/api/chat stream"
    CHAT = "/api/chat"
    V1_STREAM = "/v1/chat/completions stream"
    GENERATE = "/api/generate"

    @property
    def path(self) -> str:
        return self.value.removesuffix(" stream")

    @property
    def streams(self) -> bool:
        return self.value.endswith(" stream")


@dataclass(frozen=True, slots=True)
class Request:
    question: str
    tokens: int
    route: Route = Route.CHAT_STREAM
    model: str = "m"
    extra: Mapping[str, Any] | None = None
    """Further members of the body."""
    known: bool = True
    """False if the members change the text of the answer."""
    headers: Mapping[str, str] | None = None

    def body(self) -> bytes:
        message = {"role": "user", "content": self.question}
        body: Json = {"model": self.model, "stream": self.route.streams, **(self.extra or {})}
        if self.route is Route.V1_STREAM:
            body |= {"messages": [message], "max_tokens": self.tokens, "stream_options": {"include_usage": True}}
        else:
            body["options"] = {"num_predict": self.tokens}
            body |= {"prompt": self.question} if self.route is Route.GENERATE else {"messages": [message]}
        return json.dumps(body).encode()

    def bytes(self) -> bytes:
        body = self.body()
        extra = "".join(f"{name}: {value}\r\n" for name, value in (self.headers or {}).items())
        head = (
            f"POST {self.route.path} HTTP/1.1\r\nHost: {HOST}\r\nContent-Type: application/json\r\n{extra}"
            f"Connection: close\r\nContent-Length: {len(body)}\r\n\r\n"
        )
        return head.encode() + body

    def expected(self) -> str:
        return expected_text(self.question, self.tokens)


@lru_cache(maxsize=4096)
def expected_text(question: str, tokens: int) -> str:
    """Return what a simulated worker answers in so many tokens."""
    prompt = [v.IM_START, *v.encode(f"user\n{question}"), v.IM_END]
    whole = answer(prompt, AnswerPlan(length=tokens))
    return v.decode(whole.token(index).id for index in range(tokens))


@dataclass(frozen=True, slots=True)
class Response:
    """A response that was received to the end of its connection."""

    status: int
    headers: Mapping[str, str]
    body: bytes


class Malformed(Exception):
    """Not a whole HTTP response."""


def parse(raw: bytes) -> Response:
    """Raises Malformed for a truncated response too."""
    head, separator, body = raw.partition(b"\r\n\r\n")
    if not separator:
        raise Malformed(f"no head, but {raw[:80]!r}" if raw else "the connection was closed without a response")
    lines = head.decode("latin-1").split("\r\n")
    words = lines[0].split(" ", 2)
    if len(words) < 2 or not words[1].isdigit():
        raise Malformed(f"status line {lines[0]!r}")
    headers = {name.strip().lower(): value.strip() for name, _, value in (line.partition(":") for line in lines[1:])}
    if headers.get("transfer-encoding") == "chunked":
        body = _dechunked(body)
    elif "content-length" in headers and len(body) != int(headers["content-length"]):
        raise Malformed(f"{len(body)} of {headers['content-length']} bytes")
    return Response(int(words[1]), headers, body)


def _dechunked(data: bytes) -> bytes:
    parts: list[bytes] = []
    while True:
        size, separator, data = data.partition(b"\r\n")
        try:
            length = int(size, 16)
        except ValueError:
            raise Malformed(f"truncated after {sum(map(len, parts))} bytes: no last chunk") from None
        if not separator or data[length : length + 2] != b"\r\n":
            raise Malformed(f"truncated after {sum(map(len, parts))} bytes: half a chunk")
        if length == 0:
            return b"".join(parts)
        parts.append(data[:length])
        data = data[length + 2 :]


def judge(request: Request, raw: bytes) -> Verdict:
    """Judge what a client received until the connection ended."""
    try:
        response = parse(raw)
        if response.status != 200:
            return _judge_error(response)
        match request.route:
            case Route.CHAT_STREAM:
                return _judge_lines(request, response.body)
            case Route.V1_STREAM:
                return _judge_events(request, response.body)
        whole = json.loads(response.body)
        text = whole["response"] if request.route is Route.GENERATE else whole["message"]["content"]
        return _judge_text(request, text, whole.get("eval_count"), done=whole.get("done") is True)
    except (Malformed, ValueError, KeyError, IndexError, TypeError) as error:
        return Verdict(Result.LOST, why=f"{type(error).__name__}: {error}")


def _judge_error(response: Response) -> Verdict:
    error = json.loads(response.body)["error"]
    text = error["message"] if isinstance(error, dict) else error
    if response.status < 400 or not text:
        raise Malformed(f"status {response.status} with {response.body[:80]!r}")
    return Verdict(Result.ERROR, str(response.status), text)


def _judge_lines(request: Request, body: bytes) -> Verdict:
    if not body.endswith(b"\n"):
        raise Malformed(f"half a line: {body[-80:]!r}")
    lines: list[Json] = [json.loads(line) for line in body.splitlines()]
    text = "".join(line.get("message", {}).get("content") or "" for line in lines)
    if "error" in lines[-1]:
        return _judge_broken(request, text, lines[-1]["error"])
    return _judge_text(request, text, lines[-1].get("eval_count"), done=lines[-1].get("done") is True)


def _judge_events(request: Request, body: bytes) -> Verdict:
    if not body.endswith(b"\n\n"):
        raise Malformed(f"half an event: {body[-80:]!r}")
    data = [event.removeprefix(b"data: ") for event in body.split(b"\n\n") if event.startswith(b"data: ")]
    ended = data[-1] == b"[DONE]"
    events: list[Json] = [json.loads(one) for one in data if one != b"[DONE]"]
    deltas = [choice["delta"].get("content") or "" for event in events for choice in event.get("choices", ())]
    if "error" in events[-1]:
        return _judge_broken(request, "".join(deltas), events[-1]["error"]["message"])
    usage: Json = next((event["usage"] for event in reversed(events) if event.get("usage")), {})
    finished = any(choice.get("finish_reason") for event in events for choice in event.get("choices", ()))
    return _judge_text(request, "".join(deltas), usage.get("completion_tokens"), done=ended and finished)


def _judge_broken(request: Request, text: str, error: object) -> Verdict:
    """Judge a stream that ends with an error: what came before must be right."""
    if not isinstance(error, str) or not error:
        return Verdict(Result.LOST, why=f"an error without a text: {error!r}")
    if request.known and not request.expected().startswith(text):
        return Verdict(Result.LOST, why=f"wrong text before the error: {difference(text, request.expected())}")
    return Verdict(Result.ERROR, "line", error)


def _judge_text(request: Request, text: str, count: object, *, done: bool) -> Verdict:
    if not done:
        return Verdict(Result.LOST, why=f"ends without done after {text[-40:]!r}")
    if not request.known:
        return COMPLETE if text or count else Verdict(Result.LOST, why="an empty answer")
    if text != request.expected():
        return Verdict(Result.LOST, why=difference(text, request.expected()))
    if count != request.tokens:
        return Verdict(Result.LOST, why=f"counts {count} tokens instead of {request.tokens}")
    return COMPLETE


def difference(text: str, expected: str) -> str:
    """Describe the first difference of two texts."""
    start = next(
        (i for i, (a, b) in enumerate(zip(text, expected, strict=False)) if a != b), min(len(text), len(expected))
    )
    return f"at character {start}: {text[start : start + 40]!r} instead of {expected[start : start + 40]!r}"
