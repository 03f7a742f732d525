"""Refusals of fields that control thinking."""

from __future__ import annotations

import re

from vllama_pool.router.errors import AttemptFailed

_NO_SWITCH = "not supported for Mistral tokenizers"
_NO_EFFORT = re.compile(r"reasoning_effort=.{0,80} is not supported for this model")
_NO_BUDGET = "thinking_token_budget is set but"


def refuses_switch(failure: AttemptFailed) -> bool:
    """True if the worker takes no arguments for the template."""
    return failure.status == 400 and _NO_SWITCH in failure.text


def refuses_effort(failure: AttemptFailed) -> bool:
    return failure.status == 400 and _NO_EFFORT.search(failure.text) is not None


def refuses_budget(failure: AttemptFailed) -> bool:
    """True if the worker has no parser that tells thinking from text."""
    return failure.status == 400 and _NO_BUDGET in failure.text
