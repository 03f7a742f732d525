"""Each key may be absent or null in every request, as with Go's types."""

from __future__ import annotations

import copy
import json
import re
from collections.abc import Callable, Iterator
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.support.protocol import CLOCK
from vllama_pool.config.routing.defaults import NO_DEFAULTS
from vllama_pool.router.errors import BadRequest, ClientError
from vllama_pool.router.protocol.ollama import copying, create, embed, pull, requests, show
from vllama_pool.router.protocol.ollama.fixed_routes import PUSH
from vllama_pool.router.protocol.operation import UpstreamRequest
from vllama_pool.router.protocol.table import operations
from vllama_pool.workers.registry.record import ModelInfo
from vllama_pool.workers.simulated.requests import parse_chat, parse_completion

SCHEMA = {
    "type": "object",
    "$defs": {"a": {}},
    "items": {},
    "required": ["city"],
    "properties": {
        "city": {
            "type": ["string"],
            "description": "d",
            "enum": [1, "x", {}],
            "items": {},
            "anyOf": [{"type": "string", "properties": {"a": {"type": "string"}}, "required": ["a"]}],
        }
    },
}
MESSAGE = {
    "role": "assistant",
    "content": "x",
    "thinking": "t",
    "images": ["aaaa"],
    "tool_calls": [{"id": "a", "type": "function", "function": {"index": 0, "name": "f", "arguments": {"a": 1}}}],
    "tool_name": "f",
    "tool_call_id": "a",
}
USER = {"role": "user", "content": "x"}
TOOL = {"type": "function", "items": {}, "function": {"name": "f", "description": "d", "parameters": SCHEMA}}
SHARED = {
    "model": "m",
    "stream": False,
    "format": "json",
    "keep_alive": "5m",
    "options": {"temperature": 1.0, "num_predict": 3, "stop": ["x"], "use_mmap": True},
    "think": True,
    "truncate": True,
    "shift": True,
    "logprobs": True,
    "top_logprobs": 2,
    "_debug_render_only": False,
}
REGISTRY = {"model": "m", "name": "m", "insecure": True, "username": "u", "password": "p", "stream": True}
FULL: dict[str, tuple[Callable[[bytes], Any], dict[str, Any]]] = {
    "chat": (requests.decode_chat, {**SHARED, "messages": [USER, MESSAGE], "tools": [TOOL]}),
    "generate": (
        requests.decode_generate,
        {
            **SHARED,
            "prompt": "x",
            "suffix": "x",
            "system": "x",
            "template": "x",
            "context": [1],
            "raw": True,
            "images": ["aaaa"],
        },
    ),
    "embed": (
        embed.decode_embed,
        {"model": "m", "input": ["x"], "truncate": True, "dimensions": 3, "keep_alive": 5, "options": {"num_ctx": 9}},
    ),
    "embeddings": (embed.decode_embeddings, {"model": "m", "prompt": "x", "keep_alive": "1s", "options": {"seed": 1}}),
    "create": (
        create.decode_create,
        {
            **dict.fromkeys(["model", "name", "from", "template", "system", "quantize", "quantization"], "x"),
            **dict.fromkeys(["draft_quantize", "renderer", "parser", "requires", "remote_host"], "x"),
            **{key: {"a": "sha256:" + "0" * 64} for key in ("files", "adapters", "draft_files")},
            "stream": False,
            "license": ["x"],
            "parameters": {"stop": ["x"]},
            "messages": [USER, MESSAGE],
            "info": {"a": 1},
        },
    ),
    "show": (
        show.decode_show,
        {"model": "m", "name": "m", "system": "x", "template": "x", "verbose": True, "options": {"a": 1}},
    ),
    "copy": (copying.COPY.decode, {"source": "m", "destination": "n"}),
    "delete": (copying.decode_delete, {"model": "m", "name": "m"}),
    "pull": (pull.PULL.decode, REGISTRY),
    "push": (PUSH.decode, REGISTRY),
}
"""Decoders, and bodies with every key of Go's type."""
OLLAMA = re.compile(
    r"json: cannot unmarshal (string|number( [-\w.+]+)?|bool|array|object) "
    r"into Go (struct field \w+\.\w+(\.\w+)*|value) of type [][\w. {}]+\Z"
    r"|model is required|model '.*' not found|invalid input type|invalid think value: |think must be a boolean"
    r"|illegal base64 data at input byte \d+|top_logprobs must be between 0 and 20|Unsupported type: "
    r"|time: |invalid character |exceeded max depth|file path must be relative|'.+' is not supported|invalid digest"
)
"""Texts of Ollama, and of our refusals."""

Path = tuple[str | int, ...]


def paths(value: Any, path: Path = ()) -> Iterator[Path]:
    if path:
        yield path
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, inner in items:
        yield from paths(inner, (*path, key))


def changed(body: dict[str, Any], path: Path, value: Any = None, *, drop: bool = False) -> dict[str, Any]:
    result = copy.deepcopy(body)
    inner: Any = result
    for key in path[:-1]:
        inner = inner[key]
    if drop:
        del inner[path[-1]]
    else:
        inner[path[-1]] = value
    return result


def refusal(call: Callable[[], Any]) -> str | None:
    try:
        call()
    except ClientError as error:
        return error.text
    return None


IN_A_LIST_OF_TEXTS = [("embed", ("input", 0)), ("chat", ("options", "stop", 0)), ("generate", ("options", "stop", 0))]
"""Places where Ollama refuses null: they are lists of any values, of which it wants texts."""
PLACES = [
    (name, path) for name, (_, body) in FULL.items() for path in paths(body) if (name, path) not in IN_A_LIST_OF_TEXTS
]


def test_the_bodies_have_every_key_of_our_types() -> None:
    types = {"chat": requests.CHAT, "generate": requests.GENERATE, "embed": embed.EMBED, "embeddings": embed.EMBEDDINGS}
    types |= {"create": create.CREATE, "show": show.SHOW, "copy": copying.COPY, "delete": copying.DELETE}
    types |= {"pull": pull.PULL, "push": PUSH}
    filled_later = {"response_format"}
    assert {name: set(decoder.type.fields) - filled_later for name, decoder in types.items()} == {
        name: set(body) for name, (_, body) in FULL.items()
    }


@pytest.mark.rule(39)
@pytest.mark.parametrize("drop", [True, False], ids=["absent", "null"])
@pytest.mark.parametrize(("name", "path"), PLACES, ids=lambda value: value if isinstance(value, str) else None)
def test_every_key_may_be_absent_or_null(name: str, path: Path, drop: bool) -> None:
    decode, body = FULL[name]
    changed_body = json.dumps(changed(body, path, drop=drop)).encode()
    if path == ("model",) and name in ("chat", "generate", "embed", "embeddings"):
        with pytest.raises(ClientError, match=r"^model is required$|^model '' not found$"):
            decode(changed_body)
    else:
        decode(changed_body)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(max_size=4),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner, max_size=3),
    max_leaves=6,
)


@pytest.mark.rule(152)
@given(st.sampled_from(PLACES), JSON)
def test_any_value_is_accepted_or_refused_in_ollamas_words(place: tuple[str, Path], value: Any) -> None:
    decode, body = FULL[place[0]]
    text = refusal(lambda: decode(json.dumps(changed(body, place[1], value)).encode()))
    assert text is None or OLLAMA.match(text)


@pytest.mark.rule(152)
@pytest.mark.parametrize("value", [2**63, -(2**63) - 1, 10**30, 1e30, 1.5])
def test_a_number_that_go_cannot_hold_is_refused_with_gos_text(value: float) -> None:
    for name, field in (("chat", "ChatRequest.top_logprobs"), ("embed", "EmbedRequest.dimensions")):
        decode, body = FULL[name]
        with pytest.raises(BadRequest) as caught:
            decode(json.dumps({**body, field.partition(".")[2]: value}).encode())
        assert caught.value.text == (f"json: cannot unmarshal number {value} into Go struct field {field} of type int")


@pytest.mark.rule(152)
@pytest.mark.parametrize(
    ("value", "text"),
    [
        ({"a": 1}, "number into Go struct field CreateRequest.files of type string"),
        (["a"], "array into Go struct field CreateRequest.files of type map[string]string"),
    ],
)
def test_values_of_maps_are_checked(value: Any, text: str) -> None:
    with pytest.raises(BadRequest) as caught:
        create.CREATE.decode(json.dumps({"model": "m", "files": value}).encode())
    assert caught.value.text == f"json: cannot unmarshal {text}"


ABLE = ModelInfo(
    name="m", capabilities=("completion", "tools", "vision", "thinking", "insert"), has_template=True, context_length=64
)
PREPARED = [place for place in PLACES if place[0] in ("chat", "generate")]


@pytest.mark.rule(39, 79)
@pytest.mark.parametrize("drop", [True, False], ids=["absent", "null"])
@pytest.mark.parametrize(("name", "path"), PREPARED, ids=lambda value: value if isinstance(value, str) else None)
def test_a_request_with_a_missing_key_is_served(name: str, path: Path, drop: bool) -> None:
    """The simulated worker accepts what is sent."""
    if path[0] == "model":
        return
    plain = {"template": "", "raw": False, "images": None, "context": None, "suffix": None}
    body = {**FULL[name][1], **(plain if name == "generate" else {})}
    if path[0] in plain and name == "generate":
        return
    operation = next(operation for operation in operations(CLOCK) if operation.name == name)
    request = operation.decode(json.dumps(changed(body, path, drop=drop)).encode())
    if operation.check(request, ABLE, NO_DEFAULTS) is not None:
        return  # it loads the model
    step = operation.prepare(request, ABLE, NO_DEFAULTS)
    assert isinstance(step, UpstreamRequest)
    parse = parse_chat if step.path.endswith("chat/completions") else parse_completion
    parse(step.body, "application/json", max_stop=1000)
    assert msgspec.json.decode(step.body)["model"] == "m"
