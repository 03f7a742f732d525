"""Options through a live router to a real vLLM whose model has settings of its own in generation_config.json."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import httpx
import pytest

from tests.support.fleet.attached import OneSystem
from tests.support.vllm.servers import ANSWER_TIMEOUT, VllmServer

LIMIT = 5
"""max_new_tokens."""
QUESTIONS: dict[str, tuple[str, dict[str, Any]]] = {
    "chat": ("/api/chat", {"messages": [{"role": "user", "content": "hello"}]}),
    "generate": ("/api/generate", {"prompt": "hello"}),
    "raw": ("/api/generate", {"prompt": "<|im_start|>user\nhello<|im_end|>\n<|im_start|>assistant\n", "raw": True}),
}
every_question = pytest.mark.parametrize("question", QUESTIONS)
OFF = {"repeat_penalty": 1, "top_k": 0, "top_p": 1, "min_p": 0}
EXACT = {"temperature": 0, "repeat_penalty": 1}
END = "nine ten."
"""The model's answer is 38 tokens long."""


@pytest.fixture(scope="module")
def systems(tmp_path_factory: pytest.TempPathFactory) -> Iterator[OneSystem]:
    with OneSystem(lambda: tmp_path_factory.mktemp("system")) as one_system:
        yield one_system


class Answers:
    def __init__(self, url: str, model: str) -> None:
        self._url = url
        self.model = model

    def ask(self, question: str, **options: Any) -> tuple[str, int, str]:
        """Return the answer's text with its thinking, its tokens, and its reason to end."""
        path, fields = QUESTIONS[question]
        answer = self.post(path, **fields, options=options)
        message = answer.get("message", answer)
        text = message.get("thinking", "") + message.get("content", answer.get("response", ""))
        return text, answer["eval_count"], answer["done_reason"]

    def post(self, path: str, **fields: Any) -> dict[str, Any]:
        body = {"model": self.model, "stream": False, **fields}
        response = httpx.post(self._url + path, json=body, trust_env=False, timeout=ANSWER_TIMEOUT)
        assert response.status_code == 200, response.text
        answer: dict[str, Any] = response.json()
        return answer


@pytest.fixture
def limited(systems: OneSystem, configured_vllm: VllmServer) -> Answers:
    return Answers(systems.url(configured_vllm), configured_vllm.model)


@every_question
@pytest.mark.rule(126)
@pytest.mark.parametrize("num_predict", [-1, -2, 0, -7])
def test_no_limit_is_beyond_generation_configs(limited: Answers, question: str, num_predict: int) -> None:
    text, tokens, reason = limited.ask(question, **EXACT, num_predict=num_predict)
    assert (text[-len(END) :], reason) == (END, "stop")
    assert tokens > 6 * LIMIT


@every_question
@pytest.mark.rule(126, 144)
def test_a_limit_that_nobody_sets_is_generation_configs(limited: Answers, question: str) -> None:
    assert limited.ask(question, **EXACT)[1:] == (LIMIT, "length")
    assert limited.ask(question, **EXACT, num_predict=LIMIT + 4)[1:] == (LIMIT + 4, "length")


@pytest.mark.rule(126)
def test_a_virtual_model_without_a_limit_answers_to_the_end(limited: Answers) -> None:
    parameters = {**EXACT, "num_predict": -1}
    created = limited.post("/api/create", model="endless", **{"from": limited.model}, parameters=parameters)
    assert created == {"status": "success"}
    limited.model = "endless"
    for question in QUESTIONS:
        text, _, reason = limited.ask(question)
        assert (text[-len(END) :], reason) == (END, "stop")


@every_question
@pytest.mark.rule(128, 129, 130, 132)
@pytest.mark.parametrize("name", OFF)
def test_an_option_that_is_off_overrides_generation_config(limited: Answers, question: str, name: str) -> None:
    """With temperature 2 a seed changes the answer, unless top_k, top_p or min_p leave one token to choose from."""
    hot = {**OFF, "temperature": 2, "num_predict": 24}
    if name == "repeat_penalty":
        exact = {"temperature": 0, "num_predict": 24}
        assert limited.ask(question, **exact, repeat_penalty=1) == limited.ask(question, **exact, repeat_last_n=0)
        assert limited.ask(question, **exact, repeat_penalty=1) != limited.ask(question, **exact)
    else:
        assert limited.ask(question, **hot, seed=1) != limited.ask(question, **hot, seed=2)
        del hot[name]
        assert limited.ask(question, **hot, seed=1) == limited.ask(question, **hot, seed=2)


@pytest.mark.rule(136)
def test_a_negative_seed_is_none(limited: Answers) -> None:
    hot = {**OFF, "temperature": 2, "num_predict": 24, "seed": -1}
    assert limited.ask("raw", **hot) != limited.ask("raw", **hot)
