"""Hashes and bounds of every prompt that a protocol accepts, whatever its form."""

import json
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from vllama_pool.router.errors import ClientError
from vllama_pool.router.protocol.table import operations
from vllama_pool.router.routing.prompt_prefixes import NO_PREFIXES, prompt_prefixes
from vllama_pool.router.routing.prompt_size import prompt_size


class Clock:
    def time_ns(self) -> int:
        return 0

    def monotonic_ns(self) -> int:
        return 0


OPERATIONS = operations(Clock())
IMAGE = {"type": "base64", "media_type": "image/png", "data": "aGk="}
TEXTS = st.sampled_from(["", "hello", "é", "\ud800"])
SCALARS = st.one_of(
    TEXTS, st.none(), st.sampled_from([0, 2**70, 1e400, True, [1, 2], ["a", "b"], [[1], [2]], {}, {"a": 2**70}])
)
PARTS = st.one_of(
    st.builds(lambda text: {"type": "text", "text": text}, TEXTS),
    st.just({"type": "image_url", "image_url": {"url": "data:image/png;base64,aGk="}}),
    st.just({"type": "input_audio", "input_audio": {"data": "aGk=", "format": "wav"}}),
    st.just({"type": "image", "source": IMAGE}),
    st.just({"type": "thinking", "thinking": "t", "signature": "s"}),
    st.builds(lambda value: {"type": "tool_use", "id": "a", "name": "f", "input": {"a": value}}, SCALARS),
    st.just({"type": "tool_result", "tool_use_id": "a", "content": [{"type": "text", "text": "x"}]}),
    st.just({"type": "refusal", "refusal": "no"}),
)
CALL = {"id": "a", "type": "function", "function": {"name": "f", "arguments": {"a": 2**70}}}
MESSAGES = st.fixed_dictionaries(
    {
        "role": st.sampled_from(["user", "assistant", "system", "developer", "tool", "User", ""]),
        "content": st.one_of(TEXTS, st.none(), st.lists(PARTS, max_size=3)),
    },
    optional={"images": st.just(["aGk="]), "tool_calls": st.just([CALL])},
)
BODIES = st.fixed_dictionaries(
    {"model": st.just("m")},
    optional={
        "messages": st.lists(MESSAGES, max_size=4),
        "input": st.one_of(SCALARS, st.lists(MESSAGES, max_size=3)),
        "system": st.one_of(TEXTS, st.lists(PARTS, max_size=2)),
        "prompt": SCALARS,
        "context": SCALARS,
        "instructions": TEXTS,
        "max_tokens": SCALARS,
        "options": st.just({"num_predict": 5}),
        "tools": st.just([{"type": "function", "name": "f", "function": {"name": "f", "parameters": {}}}]),
    },
)


@settings(max_examples=600, deadline=None)
@given(operation=st.sampled_from(OPERATIONS), body=BODIES)
def test_every_accepted_prompt_has_hashes_and_bounds(operation: Any, body: dict[str, Any]) -> None:
    try:
        request = operation.decode(json.dumps(body).encode())
    except ClientError:
        return
    found = prompt_prefixes(request, "m")
    assert found == NO_PREFIXES or (0 < found.key < 2**64 and all(0 < prefix < 2**64 for prefix in found.prefixes))
    size = prompt_size(request)
    assert size.at_most == 0 or size.at_least <= size.at_most
