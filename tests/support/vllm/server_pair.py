"""A real vLLM and a simulated worker with the same settings, sent the same requests."""

from __future__ import annotations

import json
import re
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

import httpx
import pytest

from tests.support.until import auntil
from tests.support.vllm import response_shape

CHAT = "/v1/chat/completions"
COMPLETIONS = "/v1/completions"
EMBEDDINGS = "/v1/embeddings"
MESSAGES = "/v1/messages"
STREAM_ATTEMPTS = 10
"""vLLM joins the events that its front end is late for, on a busy machine."""
RESPONSES = "/v1/responses"
TOKENIZE = "/tokenize"
DETOKENIZE = "/detokenize"
QUESTION: dict[str, Any] = {"messages": [{"role": "user", "content": "What is 2+2?"}]}
BEGUN: dict[str, Any] = {
    "messages": [{"role": "user", "content": "hello"}, {"role": "assistant", "content": "Hello! I am a"}],
    "continue_final_message": True,
    "add_generation_prompt": False,
}
"""A chat whose last message is to be continued."""
NO_THINKING = {"chat_template_kwargs": {"enable_thinking": False}}
STREAM_WITH_USAGE: dict[str, Any] = {"stream": True, "stream_options": {"include_usage": True}}
JSON = {"content-type": "application/json"}
TIMEOUT = 100.0
"""Seconds without a byte from a server. A vLLM on a busy machine makes a few tokens per second."""

every_mode = pytest.mark.parametrize(
    "mode", [{}, {"stream": True}, STREAM_WITH_USAGE], ids=["whole", "streamed", "usage"]
)
"""Runs a test for an answer in one piece, a stream, and a stream that ends with the usage."""


def field_names(fields: dict[str, Any]) -> str:
    """The id of a test case that consists of these request fields."""
    return "-".join(fields) or "default"


@dataclass(frozen=True)
class ServerPair:
    """The base URLs of both servers, and what both have in common."""

    real: str
    simulated: str
    model: str
    context: int
    headers: dict[str, str]

    @property
    def urls(self) -> tuple[str, str]:
        return self.real, self.simulated

    def compare(
        self, path: str, body: Any = None, *, method: str = "POST", headers: dict[str, str] | None = None
    ) -> tuple[httpx.Response, httpx.Response]:
        """Send a request to both. Return both responses; AssertionError if their shapes differ."""
        streams = isinstance(body, dict) and body.get("stream") is True
        for _ in range(STREAM_ATTEMPTS if streams else 1):
            real, simulated = (self._send(url, method, path, body, headers or {}) for url in self.urls)
            shapes = response_shape.of_response(real), response_shape.of_response(simulated)
            if not response_shape.difference(*shapes):
                break
        response_shape.assert_equal(*shapes, request=f"{method} {path} {str(body)[:300]}")
        return real, simulated

    def compare_fields(self, path: str, **fields: Any) -> tuple[httpx.Response, httpx.Response]:
        """Compare the responses to a body of these fields, the model's name and temperature 0."""
        return self.compare(path, self._body(fields))

    def post(self, url: str, path: str, **fields: Any) -> dict[str, Any]:
        """Send such a body to one of both. Return the JSON of its answer."""
        answer: dict[str, Any] = self._send(url, "POST", path, self._body(fields), {}).json()
        return answer

    def _body(self, fields: dict[str, Any]) -> dict[str, Any]:
        return {"model": self.model, "temperature": 0, **fields}

    def _send(self, url: str, method: str, path: str, body: Any, headers: dict[str, str]) -> httpx.Response:
        content = body if isinstance(body, bytes | None) else json.dumps(body).encode()
        sent = {**self.headers, **({} if content is None else JSON), **headers}
        # These servers have no TLS: its context would take 20 ms of CPU time per request.
        with httpx.Client(trust_env=False, timeout=TIMEOUT, verify=False) as client:
            return client.request(method, url + path, content=content, headers=sent)


Simulate = Callable[..., ServerPair]
"""(server, *flags, api_key="", folder="") -> the server and a simulated one with these further flags.

`folder`: the model's files, whose generation_config.json the simulated one reads.
"""


@asynccontextmanager
async def fresh_connections(headers: dict[str, str] | None = None) -> AsyncIterator[httpx.AsyncClient]:
    """An HTTP client that reuses no connection, since httpx may send on one that an idle server is closing."""
    limits = httpx.Limits(max_keepalive_connections=0)
    async with httpx.AsyncClient(
        trust_env=False, timeout=TIMEOUT, headers=headers, limits=limits, verify=False
    ) as client:
        yield client


async def wait_for_requests(
    client: httpx.AsyncClient, url: str, count: int, timeout: float, *, queued: bool = False
) -> None:
    """Wait until the engine runs exactly `count` requests, by its metrics; with `queued`, runs or queues them."""

    async def reached() -> bool:
        page = (await client.get(f"{url}/metrics")).text
        return _gauge(page, "running") + (_gauge(page, "waiting") if queued else 0) == count

    await auntil(reached, timeout, f"{count} requests in the engine of {url}")


async def generated_tokens(client: httpx.AsyncClient, url: str) -> int:
    """Return the number of tokens that the engine has generated, by its metrics."""
    page = (await client.get(f"{url}/metrics")).text
    found = re.search(r"^vllm:generation_tokens_total\{.*\} (\S+)$", page, re.MULTILINE)
    return int(float(found[1])) if found else 0


async def wait_for_status(
    send: Callable[[], Awaitable[httpx.Response]], status: int, *, timeout: float
) -> httpx.Response:
    """Repeat a request until its answer has this status. Return that answer."""
    answers: list[httpx.Response] = []

    async def answered() -> bool:
        answers.append(await send())
        return answers[-1].status_code == status

    await auntil(answered, timeout, f"status {status}")
    return answers[-1]


def _gauge(page: str, kind: str) -> int:
    found = re.search(rf"^vllm:num_requests_{kind}\{{.*\}} (\S+)$", page, re.MULTILINE)
    return int(float(found[1])) if found else 0
