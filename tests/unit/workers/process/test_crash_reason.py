"""Log texts of vLLM 0.32."""

from __future__ import annotations

import pytest

from vllama_pool.workers.process.crash_reason import MAX_LENGTH, crash_reason

TRACE = 'Traceback (most recent call last):\n  File "serve.py", line 1, in cmd\n    raise ValueError(\n'
CORE = "(EngineCore pid=17223) ERROR 11-22 19:27:13 [core.py:1510] "


@pytest.mark.parametrize(
    ("log", "words"),
    [
        ("", ""),
        ("INFO loading\n\nstill loading\n", "still loading"),
        (
            "usage: vllm [-h]\n            ...\nvllm: error: unrecognized arguments: --nope\n",
            "unrecognized arguments: --nope",
        ),
        (TRACE + "OSError: [Errno 98] Address already in use\n", "OSError: [Errno 98] Address already in use"),
        (
            TRACE + "pydantic_core._pydantic_core.ValidationError: 1 validation error for ModelConfig\n"
            "  Value error, max_model_len (9) is greater than 8. [type=value_error, input_value=ArgsKwargs()]\n"
            "    For further information visit https://errors.pydantic.dev/\n",
            "max_model_len (9) is greater than 8.",
        ),
        (
            f"{CORE}Traceback (most recent call last):\n{CORE}ValueError: No available memory for the cache blocks.\n"
            "(EngineCore pid=17223) Process EngineCore:\n"
            + TRACE
            + "RuntimeError: Engine core initialization failed. See root cause above. Failed core proc(s): {}\n",
            "ValueError: No available memory for the cache blocks.",
        ),
        (TRACE + "torch.OutOfMemoryError: CUDA out of memory.\n", "OutOfMemoryError: CUDA out of memory."),
        ("\x1b[31mKeyError: 'x'\x1b[0m\n", "KeyError: 'x'"),
        (TRACE + "AssertionError\n", "AssertionError"),
    ],
)
def test_the_crash_reason_is_the_last_error_that_is_a_cause(log: str, words: str) -> None:
    assert crash_reason(log) == words


def test_a_follow_on_error_is_the_reason_if_there_is_no_other() -> None:
    assert crash_reason("RuntimeError: Engine core initialization failed.\n").startswith("RuntimeError")


def test_a_long_reason_is_shortened() -> None:
    words = crash_reason("ValueError: " + "x" * 1000)
    assert len(words) <= MAX_LENGTH
    assert words.endswith("…")
