"""Fuzzed requests, made from those of real clients, and the check that every response must pass."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from hypothesis import strategies as st

from vllama_pool.router.protocol.error_bodies import speaks_anthropic, speaks_openai

PIXEL = "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk+M9QDwADhgGAWjR9awAAAABJRU5ErkJggg=="
WEATHER = {
    "type": "function",
    "function": {
        "name": "weather",
        "description": "of a city",
        "parameters": {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]},
    },
}
CALLED = {"role": "assistant", "tool_calls": [{"function": {"name": "weather", "arguments": {"city": "Bonn"}}}]}

REQUESTS: list[tuple[str, str, dict[str, Any]]] = [
    # the stock command line
    (
        "POST",
        "/api/show",
        {"model": "", "name": "tiny", "system": "", "template": "", "verbose": False, "options": None},
    ),
    ("POST", "/api/pull", {"model": "", "name": "tiny", "username": "", "password": ""}),
    (
        "POST",
        "/api/generate",
        {"model": "tiny", "prompt": "hi", "suffix": "", "system": "", "template": "", "options": {}},
    ),
    ("POST", "/api/generate", {"model": "tiny", "prompt": "", "keep_alive": "0s"}),
    ("POST", "/api/push", {"model": "", "name": "tiny", "insecure": False}),
    ("POST", "/api/copy", {"source": "tiny", "destination": "copied"}),
    ("DELETE", "/api/delete", {"name": "copied"}),
    ("POST", "/api/create", {"model": "mine", "from": "tiny", "system": "be brief", "parameters": {"seed": 1}}),
    # the Python and JavaScript libraries, LangChain, LlamaIndex
    (
        "POST",
        "/api/chat",
        {"model": "tiny", "messages": [{"role": "user", "content": "hi"}], "tools": [], "stream": False},
    ),
    (
        "POST",
        "/api/chat",
        {
            "model": "tiny:latest",
            "messages": [
                {"role": "system", "content": "be kind"},
                {"role": "user", "content": "how warm?", "images": [PIXEL]},
                CALLED,
                {"role": "tool", "content": "20 degrees", "tool_name": "weather"},
            ],
            "tools": [WEATHER],
            "format": "",
            "options": {"num_predict": 5, "temperature": 0.1, "stop": ["."], "num_ctx": 8192},
        },
    ),
    (
        "POST",
        "/api/embed",
        {"model": "vec", "input": ["one", "two"], "truncate": False, "options": {"num_ctx": None, "seed": None}},
    ),
    # Zed, Home Assistant, Continue, Open WebUI, LiteLLM
    (
        "POST",
        "/api/chat",
        {"model": "tiny", "messages": [{"role": "user", "content": "a"}], "keep_alive": -1, "think": None},
    ),
    ("POST", "/api/generate", {"model": "tiny", "prompt": "def f(", "raw": True, "keep_alive": 1800, "logprobs": True}),
    ("POST", "/api/embeddings", {"model": "vec", "prompt": "one"}),
    (
        "POST",
        "/api/generate",
        {"model": "tiny", "prompt": "x", "images": [], "format": {"type": "object"}, "context": [1]},
    ),
]

UNUSUAL: st.SearchStrategy[Any] = st.one_of(
    st.none(),
    st.booleans(),
    st.sampled_from([0, -1, 1, 2**31, 2**63, -(2**63), 10**400, 0.5, 1e308, "", "0", "5m", "\x00", "💥", "\ud800"]),
    st.text(max_size=8),
    st.lists(st.integers(), max_size=3),
    st.dictionaries(st.text(max_size=4), st.none() | st.text(max_size=4), max_size=3),
)
ENCODINGS = ("utf-8", "utf-8-sig", "utf-16", "utf-32-be")


@dataclass(frozen=True)
class FuzzedRequest:
    method: str
    path: str
    body: bytes
    headers: Mapping[str, str]


@st.composite
def fuzzed_requests(draw: st.DrawFn) -> FuzzedRequest:
    """Change a real request's values, text or bytes in up to three places."""
    method, path, original = draw(st.sampled_from(REQUESTS))
    body = copy.deepcopy(original)
    for _ in range(draw(st.integers(0, 3))):
        _mutate_value(draw, body)
    text = json.dumps(body, ensure_ascii=draw(st.booleans()))
    encoding = draw(st.sampled_from(ENCODINGS)) if draw(st.integers(0, 9)) == 0 else "utf-8"
    data = _mutate_text(draw, text).encode(encoding, "surrogatepass")
    headers = draw(
        st.fixed_dictionaries({}, optional={"content-type": st.sampled_from(["text/plain", "a/b", "application/xml"])})
    )
    return FuzzedRequest(method, path, _mutate_bytes(draw, data), headers)


def _mutate_value(draw: st.DrawFn, body: dict[str, Any]) -> None:
    """Replace a value, or drop, respell or add a key, at any depth."""
    container: Any = body
    while True:
        inner = [value for value in _values(container) if isinstance(value, dict | list) and value]
        if not inner or draw(st.booleans()):
            break
        container = draw(st.sampled_from(inner))
    if isinstance(container, list):
        container[draw(st.integers(0, len(container) - 1))] = draw(UNUSUAL)
        return
    if not container:
        return
    key = draw(st.sampled_from(sorted(container)))
    match draw(st.integers(0, 4)):
        case 0:
            del container[key]
        case 1:
            container[key.upper()] = container.pop(key)
        case 2:
            container[key.title()] = draw(UNUSUAL)
        case 3:
            container[draw(st.text(max_size=5))] = draw(UNUSUAL)
        case _:
            container[key] = draw(UNUSUAL)


def _values(container: Any) -> list[Any]:
    return list(container.values()) if isinstance(container, dict) else list(container)


def _mutate_text(draw: st.DrawFn, text: str) -> str:
    cut = draw(st.integers(0, len(text)))
    changes: list[Callable[[], str]] = [
        lambda: text,
        lambda: text,
        lambda: text[:cut],
        lambda: (
            text[:cut] + draw(st.sampled_from(['"', "{", "]", ",", "\\", "\x00", "NaN", "1e999", "/*"])) + text[cut:]
        ),
        lambda: text[:1] + '"model":"tiny",' + text[1:] if text != "{}" else text,
        lambda: text + draw(st.sampled_from(["garbage", "{}", "\n\n", "\x00"])),
        lambda: text[:-1] + ',"deep":' + "[" * 3000 + "]" * 3000 + "}",
        lambda: "[" * draw(st.sampled_from([10, 20_000])),
    ]
    return draw(st.sampled_from(changes))()


def _mutate_bytes(draw: st.DrawFn, data: bytes) -> bytes:
    if draw(st.integers(0, 4)) or not data:
        return data
    at = draw(st.integers(0, len(data) - 1))
    return data[:at] + draw(st.binary(min_size=1, max_size=3)) + data[at + 1 :]


EXPECTED_ERRORS = (
    ("option ", 500),  # a wrong type inside options, R153
    ("invalid format: ", 500),  # R057
    ("pull model manifest: file does not exist", 500),  # R105
    ("this model does not support embeddings", 501),
    ("this model does not support embeddings", 500),  # /api/embeddings
    ("the input length exceeds the context length", 500),  # /api/embeddings, R101
)
"""Beginnings of Ollama's error texts with a status above 499."""
RECORDING = "/admin/decisions"
"""JSON lines without an end of their own."""
UNSUPPORTED = ("/api/push", "/api/blobs/", "/api/create", "/v1/")
"""Paths with 501 for unsupported features."""


def problem(method: str, path: str, status: int, content_type: str, body: bytes) -> str:
    """Describe the fault of a response; "" if it has none."""
    if method == "HEAD":
        return "" if status < 500 else "a 5xx"
    if status in (404, 405) and content_type == "text/plain":
        return "" if body in (b"404 page not found", b"405 method not allowed") else "an unexpected text"
    if 300 <= status < 400:
        return ""
    if status < 400:
        return "" if path == RECORDING else _problem_of_success(content_type, body)
    try:
        error = json.loads(body)
    except ValueError:
        return "an error that is not JSON"
    if content_type not in ("application/json; charset=utf-8", "application/json"):
        return f"an error of type {content_type}"
    text = error["error"]["message"] if speaks_openai(path) or speaks_anthropic(path) else error["error"]
    if not isinstance(text, str) or not text:
        return "an error without a text"
    if status < 500 or (status == 501 and path.startswith(UNSUPPORTED)):
        return ""
    expected = any(status == code and text.startswith(start) for start, code in EXPECTED_ERRORS)
    return "" if expected else "a 5xx of ours"


def _problem_of_success(content_type: str, body: bytes) -> str:
    try:
        if content_type == "application/x-ndjson":
            lines = [json.loads(line) for line in body.splitlines()]
            last = lines[-1] if lines else {}
            ended = last.get("done") or last.get("status") == "success" or "error" in last
            return "" if ended else "a stream without an end"
        if content_type.startswith("application/json"):
            json.loads(body)
    except ValueError:
        return f"invalid {content_type}"
    return ""
