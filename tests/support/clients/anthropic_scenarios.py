"""Scenarios of Anthropic's own clients alone, for any fleet."""

from __future__ import annotations

import itertools

from tests.support.clients.checks import GREETING, OPTIONS
from tests.support.clients.fleets import ChatFleet
from tests.support.clients.stock_clients import StockClient
from tests.support.clients.v1_scenarios import for_v1_clients_with

EVENTS = [
    "message_start",
    *("content_block_start thinking", "content_block_delta thinking_delta", "content_block_delta signature_delta"),
    "content_block_stop",
    *("content_block_start text", "content_block_delta text_delta", "content_block_stop"),
    *("message_delta", "message_stop"),
]
"""Those of one thought and one text, without repetitions."""


class AnthropicScenarioTests:
    @for_v1_clients_with("events")
    async def test_the_events_of_a_message_come_in_order(self, client: StockClient, chat_fleet: ChatFleet) -> None:
        kinds = await client.run("events", chat_fleet.at, question=GREETING, options=OPTIONS)
        assert [kind for kind, _ in itertools.groupby(kinds) if kind != "ping"] == EVENTS

    @for_v1_clients_with("beta")
    async def test_beta_requests_and_cached_system_blocks_are_answered(
        self, client: StockClient, chat_fleet: ChatFleet
    ) -> None:
        assert chat_fleet.answer_prefix in await client.run("beta", chat_fleet.at, question=GREETING, options=OPTIONS)

    @for_v1_clients_with("count_tokens")
    async def test_more_text_counts_more_tokens(self, client: StockClient, chat_fleet: ChatFleet) -> None:
        short = await client.run("count_tokens", chat_fleet.at, question="hello")
        long = await client.run("count_tokens", chat_fleet.at, question="hello there, " * 20)
        assert 0 < short < long

    @for_v1_clients_with("count_tokens", "chat")
    async def test_counted_tokens_are_those_of_the_answer(self, client: StockClient, chat_fleet: ChatFleet) -> None:
        counted = await client.run("count_tokens", chat_fleet.at, question=GREETING)
        answered = await client.run("chat", chat_fleet.at, question=GREETING, options=OPTIONS)
        assert answered["counts"][0] == counted
