"""Answers of a model whose generation_config limits them."""

from __future__ import annotations

from typing import Any

import pytest

from tests.support.vllm.server_pair import CHAT, COMPLETIONS, QUESTION, ServerPair
from vllama_pool.config.routing.defaults import NO_DEFAULTS
from vllama_pool.router.protocol.ollama import options
from vllama_pool.workers.registry.record import ModelInfo

LIMIT = 5
"""max_new_tokens."""


def generated(pair: ServerPair, path: str, fields: dict[str, Any]) -> list[tuple[int, bool]]:
    """The tokens of the real and the simulated answer, and whether they fill the context."""
    usages = [answer.json()["usage"] for answer in pair.compare_fields(path, **fields, ignore_eos=True)]
    return [(usage["completion_tokens"], usage["total_tokens"] == pair.context) for usage in usages]


@pytest.mark.rule(126)
@pytest.mark.parametrize("num_predict", [-1, 0])
def test_no_limit_is_beyond_generation_configs(configured_pair: ServerPair, num_predict: int) -> None:
    info = ModelInfo(name="configured", context_length=configured_pair.context, defaults={"num_predict": LIMIT})
    values = options.sampling(options.merge({"num_predict": num_predict}, NO_DEFAULTS.options, info), info)
    fields = {"max_tokens": values["max_tokens"]}
    for path, question in ((CHAT, QUESTION), (COMPLETIONS, {"prompt": "hello"})):
        assert all(full for _, full in generated(configured_pair, path, {**question, **fields}))


@pytest.mark.rule(126)
def test_an_absent_limit_of_a_chat_is_generation_configs(configured_pair: ServerPair) -> None:
    assert [tokens for tokens, _ in generated(configured_pair, CHAT, QUESTION)] == [LIMIT, LIMIT]
    assert [tokens for tokens, _ in generated(configured_pair, CHAT, {**QUESTION, "max_tokens": 9})] == [9, 9]
