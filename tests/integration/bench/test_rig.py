"""The benchmark's fake vLLM and load generator, without a router between them."""

from __future__ import annotations

import http.client
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.bench.apis import OPENAI
from tests.bench.programs import build
from tests.bench.rig import Rig, finish, rig
from tests.bench.scenarios import Answers, Scenario

FIRST = "127.1.0.1"


@pytest.fixture
def direct(tmp_path: Path) -> Iterator[Rig]:
    with rig(build(tmp_path / "programs"), tmp_path, addresses=3) as running:
        yield running


def answer(running: Rig, body: str, address: str = FIRST) -> str:
    connection = http.client.HTTPConnection(address, running.port, timeout=10)
    connection.request("POST", "/v1/chat/completions", body)
    text = connection.getresponse().read().decode()
    connection.close()
    return text


@pytest.mark.parametrize("answers", [Answers(20), Answers(20, delay=500, first=1000, per_write=3)])
def test_the_load_generator_sees_every_token_of_every_stream(direct: Rig, answers: Answers) -> None:
    direct.set_answers(answers)
    load = finish(direct.start_load(Scenario("", "", answers, True, 4, 10, spread=1000), direct.port, OPENAI, FIRST))
    assert (load.done, load.tokens, load.errors, load.refused) == (10, 200, 0, 0)
    assert 0 < load.first_p50 <= load.first_p99
    assert load.request_p50 >= load.first_p50 >= answers.first


def test_the_load_generator_sees_documents(direct: Rig) -> None:
    direct.set_answers(Answers(20))
    load = finish(direct.start_load(Scenario("", "", Answers(20), False, 2, 50), direct.port, OPENAI, FIRST))
    assert (load.done, load.tokens, load.errors, load.refused) == (50, 0, 0, 0)


def test_the_fake_vllm_writes_a_token_when_the_client_has_the_one_before(direct: Rig) -> None:
    answers = Answers(30, per_write=0)
    direct.set_answers(answers)
    load = finish(direct.start_load(Scenario("", "", answers, True, 1, 2), direct.port, OPENAI, FIRST))
    assert (load.done, load.tokens, load.errors, load.refused) == (2, 60, 0, 0)
    assert load.chunks == 2 * (1 + 30 + 3 + 1), "role, tokens, finish, usage and [DONE], end of the body"


@pytest.mark.parametrize("per_write", [1, 20])
def test_a_stream_interval_joins_tokens_in_one_event_after_the_first(direct: Rig, per_write: int) -> None:
    direct.set_answers(Answers(20, per_write=per_write))
    text = answer(direct, '{"stream":true,"stream_interval":8}')
    assert [event.count("@") for event in text.split("\n\n") if "@" in event] == [1, 8, 8, 3]
    assert text.endswith("data: [DONE]\n\n")


def test_each_worker_has_an_address_of_its_own(direct: Rig) -> None:
    direct.set_answers(Answers(2))
    answers = [answer(direct, '{"stream":false}', f"127.1.0.{last}") for last in (1, 2, 3)]
    assert all("word word" in text and '"completion_tokens":2' in text for text in answers)
