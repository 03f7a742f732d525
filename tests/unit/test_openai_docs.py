"""docs/openai-anthropic.md says what the code does."""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import Path

import msgspec
import pytest

from vllama_pool.router.protocol.anthropic import requests as anthropic
from vllama_pool.router.protocol.clock import SystemClock
from vllama_pool.router.protocol.error_bodies import anthropic_error, openai_error
from vllama_pool.router.protocol.openai import (
    requests,
    tokenization,
)
from vllama_pool.router.protocol.openai.audio import transcription
from vllama_pool.router.protocol.openai.pooling import embeddings, scoring
from vllama_pool.router.protocol.openai.responses import requests as responses
from vllama_pool.router.protocol.openai.responses import tools as responses_tools
from vllama_pool.router.protocol.table import operations
from vllama_pool.router.server.zstd_body import ZSTD_PATHS
from vllama_pool.router.server.zstd_stream import MAX_FRAMES

PAGE = (Path(__file__).resolve().parents[2] / "docs" / "openai-anthropic.md").read_text()
BODIES: dict[str, tuple[type[msgspec.Struct], Iterable[str]]] = {
    "/v1/chat/completions": (requests.ChatCompletionRequest, requests.REFUSED),
    "/v1/completions": (requests.CompletionRequest, requests.REFUSED),
    "/v1/responses": (
        responses.ResponsesRequest,
        {*requests.REFUSED, *responses.STATEFUL, "previous_input_messages"},
    ),
    "/v1/messages": (anthropic.MessagesRequest, anthropic.REFUSED),
    "/v1/messages/count_tokens": (anthropic.CountTokensRequest, anthropic.REFUSED),
    "/v1/embeddings": (embeddings.EmbeddingRequest, embeddings.REFUSED),
    "/v1/rerank": (scoring.RerankRequest, scoring.REFUSED),
    "/v1/score": (scoring.ScoreRequest, scoring.REFUSED),
    "/tokenize": (tokenization.TokenizeRequest, tokenization.REFUSED),
    "/detokenize": (tokenization.DetokenizeRequest, ()),
    "/v1/audio/transcriptions": (transcription.TranscriptionRequest, transcription.REFUSED),
}
"""The struct of each route's body, and the fields that are refused."""
UNKNOWN_TO_VLLM = {
    "/v1/responses": {"max_tokens", "stream_interval", "truncate_prompt_tokens"},
    "/v1/messages": {"metadata"},
    "/v1/messages/count_tokens": {"metadata"},
}
"""Fields of the struct that the route drops."""
STATUS_ROW = re.compile(r"^\| ([0-9, ]+) \| `(\w+)`[^|]*\| `(\w+)` \|", re.MULTILINE)
ROUTE = re.compile(r"`(?:(?:GET|POST) )?(/[\w/]+)`")


def table(heading: str) -> str:
    """Return the first table of a section."""
    section = PAGE.partition(f"\n## {heading}\n")[2].partition("\n## ")[0]
    return "\n".join(line for line in section.splitlines() if line.startswith("|"))


@pytest.mark.parametrize(("statuses", "openai", "anthropic"), STATUS_ROW.findall(PAGE))
def test_the_types_of_errors_are_those_of_the_code(statuses: str, openai: str, anthropic: str) -> None:
    for status in map(int, statuses.split(",")):
        assert openai_error(status, "")["error"]["type"] == openai
        assert anthropic_error(status, "")["error"]["type"] == anthropic


def test_all_served_routes_of_openai_and_anthropic_are_listed() -> None:
    served = {each.path for each in operations(SystemClock()) if not each.path.startswith("/api/")}
    assert set(ROUTE.findall(table("Routes"))) == {*served, "/v1/models", "/v1/models/NAME"}


def test_the_routes_that_accept_zstd_are_listed() -> None:
    (row,) = (line for line in table("Limits").splitlines() if line.startswith("| zstd"))
    assert set(ROUTE.findall(row)) == ZSTD_PATHS
    assert f"at most {MAX_FRAMES} frames" in row


def fields(route: str, label: str) -> set[str]:
    """Return the names in the paragraph "label: ..." of a route's section, which may refer to another section."""
    section = re.split(r"\n##+ ", PAGE.partition(f"\n### `{route}`\n")[2])[0]
    (paragraph,) = (part for part in section.split("\n\n") if part.lstrip().startswith(f"{label}:"))
    others = [fields(other, label) for other in re.findall(r"as on `([^`]+)`", paragraph)]
    return set(re.findall(r"`(\w+)`", paragraph)).union(*others)


@pytest.mark.parametrize("route", BODIES)
def test_the_fields_of_a_route_are_those_of_the_code(route: str) -> None:
    struct, refused = BODIES[route]
    assert fields(route, "Refused") == set(refused)
    known = {each.encode_name for each in msgspec.structs.fields(struct)} - UNKNOWN_TO_VLLM.get(route, set())
    assert fields(route, "Forwarded") == known - set(refused)


def test_the_dropped_tools_of_responses_are_listed() -> None:
    section = PAGE.partition("\n### `/v1/responses`\n")[2]
    (rule,) = (each for each in section.split("\n- ") if each.startswith("Tools:"))
    dropped = set(re.findall(r"`(\w+)`", rule.partition("Dropped are")[2]))
    assert dropped == {re.sub(r"_\d{4}_\d\d_\d\d$", "", name) for name in responses_tools.BUILT_IN}
