"""Scenarios of OpenAI's own clients alone, for any fleet."""

from __future__ import annotations

import itertools

import pytest

from tests.support.clients.checks import GREETING, OPTIONS
from tests.support.clients.fleets import ChatFleet
from tests.support.clients.stock_clients import StockClient
from tests.support.clients.v1_scenarios import WHAT, check_call, for_v1_clients_with, raised_by
from tests.support.vllm.weather_tool import TOOL

EVENTS = [
    *("response.created", "response.in_progress"),
    *("response.output_item.added", "response.content_part.added"),
    *("response.reasoning_text.delta", "response.reasoning_text.done"),
    *("response.content_part.done", "response.output_item.done"),
    *("response.output_item.added", "response.content_part.added"),
    *("response.output_text.delta", "response.output_text.done"),
    *("response.content_part.done", "response.output_item.done", "response.completed"),
]
"""Those of one thought and one message, without repetitions."""


class OpenAIScenarioTests:
    @for_v1_clients_with("usage")
    async def test_a_stream_has_usage_only_if_the_client_asks(self, client: StockClient, chat_fleet: ChatFleet) -> None:
        plain, asked = await client.run("usage", chat_fleet.at, question=GREETING, options=OPTIONS)
        assert not any(plain)
        assert asked[-1]
        assert not any(asked[:-1])

    @for_v1_clients_with("choices")
    async def test_two_choices_are_answered_whole_and_streamed(
        self, client: StockClient, chat_fleet: ChatFleet
    ) -> None:
        result = await client.run("choices", chat_fleet.at, question=GREETING, count=2, options={"temperature": 0.01})
        assert result["indexes"] == [0, 1]
        assert all(chat_fleet.answer_prefix in text for text in (*result["whole"], *result["streamed"]))

    @for_v1_clients_with("generate", "generate_stream")
    async def test_a_completion_is_the_same_streamed_and_whole(
        self, client: StockClient, chat_fleet: ChatFleet
    ) -> None:
        limit = "maxOutputTokens" if client.kind.name == "ai-sdk" else "max_tokens"
        arguments = {"question": GREETING, "options": {**OPTIONS, limit: 8}}
        whole = await client.run("generate", chat_fleet.at, **arguments)
        streamed = await client.run("generate_stream", chat_fleet.at, **arguments)
        assert whole["text"] == streamed["text"] != ""
        assert whole["reason"] == streamed["reason"] == "length"
        assert whole["counts"][1] == 8

    @for_v1_clients_with("embed", "embed_floats")
    async def test_embeddings_as_base64_equal_those_as_floats(self, client: StockClient, chat_fleet: ChatFleet) -> None:
        texts = ["why is the sky blue", "hello"]
        encoded = await client.run("embed", chat_fleet.at, texts=texts)
        floats = await client.run("embed_floats", chat_fleet.at, texts=texts)
        assert len(encoded) == len(floats) == 2
        for one, other in zip(encoded, floats, strict=True):
            assert one == pytest.approx(other, abs=1e-6)

    @for_v1_clients_with("chat_model_in_embeddings")
    async def test_embedding_with_a_chat_model_raises_bad_request(
        self, client: StockClient, chat_fleet: ChatFleet
    ) -> None:
        error = await raised_by(client, "chat_model_in_embeddings", chat_fleet.at)
        assert error.kind == "BadRequestError"


class ResponsesScenarioTests:
    @for_v1_clients_with("respond", "respond_stream")
    async def test_a_response_is_the_same_streamed_and_whole(self, client: StockClient, chat_fleet: ChatFleet) -> None:
        whole = await client.run("respond", chat_fleet.at, question=GREETING, options=OPTIONS)
        assert chat_fleet.answer_prefix in whole["text"]
        assert whole["reason"] == "completed"
        assert min(whole["counts"]) > 0
        streamed = await client.run("respond_stream", chat_fleet.at, question=GREETING, options=OPTIONS)
        assert streamed["text"] == streamed["final"] == whole["text"]
        assert streamed["model"] == chat_fleet.model

    @for_v1_clients_with("respond_stream")
    async def test_the_events_of_a_response_come_in_order_and_numbered(
        self, client: StockClient, chat_fleet: ChatFleet
    ) -> None:
        result = await client.run("respond_stream", chat_fleet.at, question=GREETING, options=OPTIONS)
        assert result["numbers"] == list(range(len(result["numbers"])))
        assert [kind for kind, _ in itertools.groupby(result["kinds"])] == EVENTS

    @for_v1_clients_with("respond_helper")
    async def test_the_streaming_helper_assembles_a_response(self, client: StockClient, chat_fleet: ChatFleet) -> None:
        result = await client.run("respond_helper", chat_fleet.at, question=GREETING, options=OPTIONS)
        assert chat_fleet.answer_prefix in result["text"]
        assert result["status"] == "completed"
        assert result["kinds"][-1] == "response.completed"

    @for_v1_clients_with("respond_tools")
    async def test_a_function_is_called_by_a_response_and_its_output_is_accepted(
        self, client: StockClient, chat_fleet: ChatFleet
    ) -> None:
        result = await client.run("respond_tools", chat_fleet.at, **WHAT, tools=[TOOL], outcome="22 degrees")
        assert result["calls"] == [{"name": "get_weather", "arguments": chat_fleet.tool_arguments}]
        assert isinstance(result["text"], str)

    @for_v1_clients_with("respond_reasoning")
    async def test_a_response_has_a_reasoning_item(self, client: StockClient, chat_fleet: ChatFleet) -> None:
        result = await client.run("respond_reasoning", chat_fleet.at, question=GREETING, options=OPTIONS)
        assert chat_fleet.thoughts in result["thinking"]
        assert chat_fleet.answer_prefix in result["text"]

    @for_v1_clients_with("respond_typed")
    async def test_a_response_parses_as_a_type_of_pydantic_or_zod(
        self, client: StockClient, chat_fleet: ChatFleet
    ) -> None:
        check_call((await client.run("respond_typed", chat_fleet.at, **WHAT))["parsed"])

    @for_v1_clients_with("respond_previous")
    async def test_a_previous_response_id_is_refused_with_its_reason(
        self, client: StockClient, chat_fleet: ChatFleet
    ) -> None:
        error = await raised_by(client, "respond_previous", chat_fleet.at)
        assert error.kind == "BadRequestError"
        assert "previous_response_id" in error.message
