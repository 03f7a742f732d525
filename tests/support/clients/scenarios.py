"""Scenarios of clients of Ollama's API, for every client and any fleet.

A test module derives a class from ScenarioTests and defines the fixtures `chat_fleet`, `slow_fleet` and `schema_model`,
which is a `ChatFleet.at` whose model follows a schema.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable

import pytest

from tests.support.clients.checks import (
    OPTIONS,
    check_embeddings,
    check_leaving,
    check_scenarios,
    check_sixteen_chats,
    check_thinking_on_and_off,
    check_tool_round_trip,
    check_whole_and_streamed,
)
from tests.support.clients.fleets import ChatFleet, SlowFleet
from tests.support.clients.stock_clients import KINDS, ClientRaised, StockClient, for_kinds

SCHEMA = {
    "type": "object",
    "properties": {"sky": {"enum": ["blue", "grey"]}, "clouds": {"type": "integer", "minimum": 1, "maximum": 9}},
    "required": ["sky", "clouds"],
    "additionalProperties": False,
}
"""Every value is bounded, so that the smallest model ends its answer."""


def for_clients_with(*scenarios: str) -> pytest.MarkDecorator:
    return for_kinds(kind for kind in KINDS if kind.supported >= set(scenarios))


class ScenarioTests:
    @for_clients_with()
    def test_a_client_has_every_scenario_that_it_supports(
        self, client: StockClient, record_property: Callable[[str, object], None]
    ) -> None:
        check_scenarios(client, record_property)

    @for_clients_with("chat", "chat_stream")
    async def test_a_chat_has_the_same_text_streamed_and_whole(
        self, client: StockClient, chat_fleet: ChatFleet
    ) -> None:
        await check_whole_and_streamed(client, chat_fleet, "chat", "chat_stream")

    @for_clients_with("generate", "generate_stream")
    async def test_a_generated_text_is_the_same_streamed_and_whole(
        self, client: StockClient, chat_fleet: ChatFleet
    ) -> None:
        await check_whole_and_streamed(client, chat_fleet, "generate", "generate_stream")

    @pytest.mark.parametrize("scenario", ["tools", "tools_stream"])
    @for_clients_with("tools", "tools_stream")
    async def test_a_tool_is_called_and_its_result_is_accepted(
        self, client: StockClient, chat_fleet: ChatFleet, scenario: str
    ) -> None:
        await check_tool_round_trip(client, chat_fleet, scenario)

    @for_clients_with("format")
    async def test_an_answer_follows_a_schema(self, client: StockClient, schema_model: dict[str, str]) -> None:
        arguments = {"question": "What colour is the sky, and how many clouds are there?", "schema": SCHEMA}
        answer = json.loads(await client.run("format", schema_model, **arguments, options=OPTIONS))
        assert set(answer) == {"sky", "clouds"}
        assert answer["sky"] in ("blue", "grey")
        assert answer["clouds"] in range(1, 10)

    @for_clients_with("typed_format")
    async def test_an_answer_parses_as_a_type_of_pydantic_or_zod(
        self, client: StockClient, schema_model: dict[str, str]
    ) -> None:
        question = "What colours does the sky have, and how strong is the wind?"
        result = await client.run("typed_format", schema_model, question=question, options=OPTIONS)
        assert set(json.loads(result["text"])) <= {"sky", "colours", "wind", "note", "gusts"}
        assert result["parsed"]["wind"]["speed"] in range(100)

    @pytest.mark.parametrize("scenario", ["thinking", "thinking_stream"])
    @for_clients_with("thinking", "thinking_stream")
    async def test_thinking_can_be_turned_on_and_off(
        self, client: StockClient, chat_fleet: ChatFleet, scenario: str
    ) -> None:
        await check_thinking_on_and_off(client, chat_fleet, scenario)

    @for_clients_with("embed")
    async def test_embeddings_are_normalised_and_in_input_order(
        self, client: StockClient, chat_fleet: ChatFleet
    ) -> None:
        await check_embeddings(client, chat_fleet)

    @for_clients_with("list")
    async def test_the_model_list_contains_the_served_model(self, client: StockClient, chat_fleet: ChatFleet) -> None:
        listed = {name.removesuffix(":latest") for name in await client.run("list", chat_fleet.at)}
        assert chat_fleet.model in listed

    @for_clients_with("show")
    async def test_show_reports_context_length_and_capabilities(
        self, client: StockClient, chat_fleet: ChatFleet
    ) -> None:
        result = await client.run("show", chat_fleet.at)
        assert result["context"] == chat_fleet.context
        assert {"completion", "tools", "thinking"} <= set(
            result.get("capabilities", ["completion", "tools", "thinking"])
        )

    @for_clients_with("ps")
    async def test_ps_reports_expiry_and_size(self, client: StockClient, chat_fleet: ChatFleet) -> None:
        loaded = {model["name"].removesuffix(":latest"): model for model in await client.run("ps", chat_fleet.at)}
        assert loaded[chat_fleet.model]["expires"] > time.time()
        assert loaded[chat_fleet.model]["size"] > 0

    @for_clients_with("pull")
    async def test_pulling_a_served_model_succeeds(self, client: StockClient, chat_fleet: ChatFleet) -> None:
        whole, *parts = await client.run("pull", chat_fleet.at)
        assert whole == parts[-1] == "success"
        assert parts[0] == "pulling manifest"

    @for_clients_with("create_copy_delete")
    async def test_a_model_is_created_copied_used_and_deleted(self, client: StockClient, chat_fleet: ChatFleet) -> None:
        result = await client.run(
            "create_copy_delete", chat_fleet.at, name=f"by-{client.kind.name}", system="Be brief."
        )
        assert result["statuses"] == ["success"] * 4
        assert "Be brief." in result["modelfile"]
        assert chat_fleet.answer_prefix in result["text"]

    @for_clients_with("unknown_model")
    async def test_an_unknown_model_raises_with_status_404(self, client: StockClient, chat_fleet: ChatFleet) -> None:
        with pytest.raises(ClientRaised) as raised:
            await client.run("unknown_model", chat_fleet.at)
        assert client.kind.raises in str(raised.value)
        assert raised.value.status == 404

    @for_clients_with("concurrent")
    async def test_sixteen_concurrent_chats_succeed(self, client: StockClient, chat_fleet: ChatFleet) -> None:
        await check_sixteen_chats(client, chat_fleet)

    @for_clients_with("open_stream", "close_stream")
    async def test_closing_a_stream_early_frees_the_worker(self, client: StockClient, slow_fleet: SlowFleet) -> None:
        await check_leaving(client, slow_fleet)
