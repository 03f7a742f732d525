"""Scenarios of stock clients of OpenAI's and Anthropic's API, for any fleet.

A test module derives a class from V1ScenarioTests and defines the fixtures `chat_fleet` and `slow_fleet`.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest

from tests.support.clients.checks import (
    GREETING,
    OPTIONS,
    check_embeddings,
    check_freed,
    check_leaving,
    check_scenarios,
    check_sixteen_chats,
    check_thinking_on_and_off,
    check_tool_round_trip,
    check_whole_and_streamed,
)
from tests.support.clients.fleets import ChatFleet, SlowFleet
from tests.support.clients.stock_clients import ClientRaised, StockClient, for_kinds
from tests.support.clients.v1_clients import V1_KINDS
from tests.support.vllm.weather_tool import QUESTION as WEATHER
from tests.support.vllm.weather_tool import TOOL

CHOICES = {
    "openai": {"auto": "auto", "required": "required", "none": "none"}
    | {"by name": {"type": "function", "function": {"name": "get_weather"}}},
    "anthropic": {"auto": {"type": "auto"}, "required": {"type": "any"}, "none": {"type": "none"}}
    | {"by name": {"type": "tool", "name": "get_weather"}},
}
"""Values of `tool_choice`."""
ELSEWHERE = {
    "openai": ("completions", "embeddings", "responses", "models"),
    "anthropic": ("count_tokens", "beta"),
}
"""Routes other than chat, by the API's name."""
BAD_FIELDS: tuple[dict[str, Any], ...] = (
    *({"temperature": "hot"}, {"temperature": 9}, {"top_p": []}, {"messages": []}),
    *({"chat_template": "x"}, {"cache_salt": "x"}, {"priority": 1}),
)
_AWAY = "http://127.0.0.1:9/picture.png"
PICTURES = {
    "openai": {"type": "image_url", "image_url": {"url": _AWAY}},
    "anthropic": {"type": "image", "source": {"type": "url", "url": _AWAY}},
}
"""Images by URL, by the API's name."""
WHAT = {"question": WEATHER, "options": OPTIONS}
CITIES = ("Paris", "Rome")
CALL = {
    "type": "object",
    "properties": {
        "name": {"enum": ["get_weather", "get_time"]},
        "arguments": {
            "type": "object",
            "properties": {"city": {"enum": [*CITIES]}, "unit": {"enum": ["celsius", "kelvin"]}},
            "required": ["city", "unit"],
            "additionalProperties": False,
        },
    },
    "required": ["name", "arguments"],
    "additionalProperties": False,
}
"""The schema of the type Call of tests/contract/clients/call.py."""


def for_v1_clients_with(*scenarios: str) -> pytest.MarkDecorator:
    return for_kinds(kind for kind in V1_KINDS if kind.supported >= set(scenarios))


def api(client: StockClient) -> str:
    return client.kind.name.partition("-")[0]


async def raised_by(client: StockClient, scenario: str, at: dict[str, str], **arguments: Any) -> ClientRaised:
    with pytest.raises(ClientRaised) as raised:
        await client.run(scenario, at, **arguments)
    return raised.value


def check_call(value: dict[str, Any]) -> None:
    """Check an answer of the type Call of tests/contract/clients/call.py."""
    assert value["name"] in ("get_weather", "get_time")
    assert value["arguments"]["city"] in CITIES
    assert value["arguments"]["unit"] in ("celsius", "kelvin")


class V1ScenarioTests:
    @for_v1_clients_with()
    async def test_a_client_has_every_scenario_that_it_supports(
        self, client: StockClient, record_property: Callable[[str, object], None]
    ) -> None:
        check_scenarios(client, record_property)

    # --- answers of every chat API

    @for_v1_clients_with("chat", "chat_stream")
    async def test_a_chat_has_the_same_text_streamed_and_whole(
        self, client: StockClient, chat_fleet: ChatFleet
    ) -> None:
        await check_whole_and_streamed(client, chat_fleet, "chat", "chat_stream")

    @for_v1_clients_with("helper")
    async def test_the_streaming_helper_assembles_the_whole_answer(
        self, client: StockClient, chat_fleet: ChatFleet
    ) -> None:
        result = await client.run("helper", chat_fleet.at, question=GREETING, options=OPTIONS)
        assert chat_fleet.answer_prefix in result["text"]
        assert result.get("final", result["text"]) == result["text"]
        assert result["model"] == chat_fleet.model
        assert {"content.delta", "content.done"} <= set(result.get("kinds", ["content.delta", "content.done"]))

    @for_v1_clients_with("tools")
    async def test_a_tool_is_called_and_its_result_is_accepted(
        self, client: StockClient, chat_fleet: ChatFleet
    ) -> None:
        await check_tool_round_trip(client, chat_fleet, "tools")

    @for_v1_clients_with("tools_stream")
    async def test_a_tool_is_called_in_a_stream_and_its_result_is_accepted(
        self, client: StockClient, chat_fleet: ChatFleet
    ) -> None:
        await check_tool_round_trip(client, chat_fleet, "tools_stream")

    @pytest.mark.parametrize("choice", ["auto", "required", "by name"])
    @for_v1_clients_with("tool_choice")
    async def test_a_tool_is_called_with_each_tool_choice(
        self, client: StockClient, chat_fleet: ChatFleet, choice: str
    ) -> None:
        result = await client.run(
            "tool_choice", chat_fleet.at, **WHAT, tools=[TOOL], choice=CHOICES[api(client)][choice]
        )
        call = {"name": "get_weather", "arguments": chat_fleet.tool_arguments}
        assert result["whole"] == result["streamed"] == [call]
        assert all(result["ids"])
        assert len(set(result["ids"])) == 2

    @for_v1_clients_with("tool_choice")
    async def test_no_tool_is_called_with_tool_choice_none(self, client: StockClient, chat_fleet: ChatFleet) -> None:
        result = await client.run(
            "tool_choice", chat_fleet.at, **WHAT, tools=[TOOL], choice=CHOICES[api(client)]["none"]
        )
        assert result["whole"] == result["streamed"] == []
        assert set(result["reasons"]) <= {"stop", "end_turn"}

    @for_v1_clients_with("thinking")
    async def test_thinking_can_be_turned_on_and_off(self, client: StockClient, chat_fleet: ChatFleet) -> None:
        await check_thinking_on_and_off(client, chat_fleet, "thinking")

    @for_v1_clients_with("thinking_stream")
    async def test_thinking_can_be_turned_on_and_off_in_a_stream(
        self, client: StockClient, chat_fleet: ChatFleet
    ) -> None:
        await check_thinking_on_and_off(client, chat_fleet, "thinking_stream")

    @for_v1_clients_with("concurrent")
    async def test_sixteen_concurrent_chats_succeed(self, client: StockClient, chat_fleet: ChatFleet) -> None:
        await check_sixteen_chats(client, chat_fleet)

    @for_v1_clients_with("embed")
    async def test_embeddings_are_normalised_and_in_input_order(
        self, client: StockClient, chat_fleet: ChatFleet
    ) -> None:
        await check_embeddings(client, chat_fleet)

    @for_v1_clients_with("list")
    async def test_the_model_list_contains_the_served_models(self, client: StockClient, chat_fleet: ChatFleet) -> None:
        listed = {name.removesuffix(":latest") for name in await client.run("list", chat_fleet.at)}
        assert {chat_fleet.model, chat_fleet.embedder} <= listed

    @for_v1_clients_with("retrieve")
    async def test_a_model_is_retrieved_with_and_without_its_tag(
        self, client: StockClient, chat_fleet: ChatFleet
    ) -> None:
        for name in (chat_fleet.model, f"{chat_fleet.model}:latest"):
            model = await client.run("retrieve", chat_fleet.at, name=name)
            assert (model["id"], model["object"]) == (name, "model")
            assert model["created"] >= 0

    # --- answers as types

    @for_v1_clients_with("format")
    async def test_an_answer_follows_a_json_schema(self, client: StockClient, chat_fleet: ChatFleet) -> None:
        check_call(json.loads(await client.run("format", chat_fleet.at, **WHAT, schema=CALL)))

    @for_v1_clients_with("typed_format")
    async def test_an_answer_parses_as_a_type_of_pydantic_or_zod(
        self, client: StockClient, chat_fleet: ChatFleet
    ) -> None:
        check_call((await client.run("typed_format", chat_fleet.at, **WHAT))["parsed"])

    @for_v1_clients_with("typed_schema")
    async def test_a_framework_gets_a_type_by_a_json_schema(self, client: StockClient, chat_fleet: ChatFleet) -> None:
        check_call(await client.run("typed_schema", chat_fleet.at, **WHAT))

    @for_v1_clients_with("typed_stream")
    async def test_a_framework_reads_a_type_while_it_is_streamed(
        self, client: StockClient, chat_fleet: ChatFleet
    ) -> None:
        result = await client.run("typed_stream", chat_fleet.at, **WHAT)
        assert result["parts"] >= min(2, chat_fleet.least_parts)
        check_call(result["last"])

    @pytest.mark.parametrize("scenario", ["typed_tool", "typed_response", "typed_message"])
    @for_v1_clients_with("typed_tool", "typed_response", "typed_message")
    async def test_instructor_gets_a_type_by_a_tool_from_each_api(
        self, client: StockClient, chat_fleet: ChatFleet, scenario: str
    ) -> None:
        assert await client.run(scenario, chat_fleet.at, **WHAT) == chat_fleet.tool_arguments

    @pytest.mark.parametrize("provider", ["openai", "ollama", "responses"])
    @for_kinds(kind for kind in V1_KINDS if kind.name == "pydantic-ai")
    async def test_an_agent_chats_calls_tools_and_returns_types_with_each_provider(
        self, client: StockClient, chat_fleet: ChatFleet, provider: str
    ) -> None:
        at = {**chat_fleet.at, "provider": provider}
        await check_tool_round_trip(client, chat_fleet, "tools", provider=provider)
        assert await client.run("typed_tool", at, **WHAT) == chat_fleet.tool_arguments
        check_call(await client.run("typed_schema", at, **WHAT))
        streamed = await client.run("chat_stream", at, question=GREETING, options=OPTIONS)
        assert chat_fleet.answer_prefix in streamed["text"]

    # --- errors, headers and leaving

    @for_v1_clients_with("unknown_model")
    async def test_an_unknown_model_raises_the_error_of_a_404(self, client: StockClient, chat_fleet: ChatFleet) -> None:
        error = await raised_by(client, "unknown_model", chat_fleet.at)
        assert error.kind == client.kind.raises
        assert "model 'nope' not found" in error.message
        assert error.status in (404, None)

    @for_v1_clients_with("unknown_model_elsewhere", "stream_of_unknown_model")
    async def test_an_unknown_model_raises_not_found_on_every_route(
        self, client: StockClient, chat_fleet: ChatFleet
    ) -> None:
        errors = [await raised_by(client, "stream_of_unknown_model", chat_fleet.at)]
        for route in ELSEWHERE[api(client)]:
            errors.append(await raised_by(client, "unknown_model_elsewhere", chat_fleet.at, route=route))
        assert {(error.kind, error.status) for error in errors} == {("NotFoundError", 404)}

    @for_v1_clients_with("bad_request")
    async def test_a_bad_request_raises_bad_request(self, client: StockClient, chat_fleet: ChatFleet) -> None:
        for fields in BAD_FIELDS:
            error = await raised_by(client, "bad_request", chat_fleet.at, fields=fields)
            assert (error.kind, error.status) == ("BadRequestError", 400), fields

    @for_v1_clients_with("bad_request")
    async def test_an_image_by_url_raises_bad_request_with_the_cure(
        self, client: StockClient, chat_fleet: ChatFleet
    ) -> None:
        fields = {"messages": [{"role": "user", "content": [PICTURES[api(client)]]}]}
        error = await raised_by(client, "bad_request", chat_fleet.at, fields=fields)
        assert error.kind == "BadRequestError"
        assert "base64" in error.message

    @for_v1_clients_with("embedding_model_in_chat")
    async def test_a_chat_with_an_embedding_model_raises_bad_request(
        self, client: StockClient, chat_fleet: ChatFleet
    ) -> None:
        error = await raised_by(client, "embedding_model_in_chat", chat_fleet.at)
        assert error.kind == "BadRequestError"
        assert f'"{chat_fleet.embedder}" does not support chat' in error.message.replace("\\", "")

    @for_v1_clients_with("raw")
    async def test_a_raw_response_has_the_request_id(self, client: StockClient, chat_fleet: ChatFleet) -> None:
        result = await client.run("raw", chat_fleet.at, question=GREETING, options=OPTIONS)
        assert result["status"] == 200
        assert result["type"].startswith("application/json")
        assert result["id"]
        assert result["id"] == result["header"] == result["parsed_id"]
        assert chat_fleet.answer_prefix in result["text"]

    @for_v1_clients_with("time_out")
    async def test_a_client_that_times_out_frees_the_worker(self, client: StockClient, slow_fleet: SlowFleet) -> None:
        question = slow_fleet.question
        before = await slow_fleet.generated_tokens()
        error = await raised_by(client, "time_out", slow_fleet.at, question=question, options=OPTIONS, seconds=0.5)
        assert error.kind in ("APITimeoutError", "APIConnectionTimeoutError")
        await check_freed(slow_fleet, before, client)

    @for_v1_clients_with("open_stream", "close_stream")
    async def test_closing_a_stream_early_frees_the_worker(self, client: StockClient, slow_fleet: SlowFleet) -> None:
        await check_leaving(client, slow_fleet)
