"""Ollama's environment variables: supported ones, and the reasons why others have no effect."""

import pytest

from vllama_pool.config.ollama_env import SUPPORTED, ignored, invalid, warnings

IGNORED = {
    "r189": ("OLLAMA_NUM_PARALLEL", "--max-num-seqs"),
    "r190": ("OLLAMA_MAX_LOADED_MODELS", "keeps its model"),
    "r191": ("OLLAMA_CONTEXT_LENGTH", "--max-model-len"),
    "r194": ("OLLAMA_DEBUG_LOG_REQUESTS", "never logged"),
    "r196": ("OLLAMA_REMOTES", "no remote models"),
    "r197": ("OLLAMA_AUTH", "VLLAMA_API_KEYS"),
    "r198": ("OLLAMA_MODELS", "--model"),
    "r199": ("OLLAMA_FLASH_ATTENTION", "its own flags"),
}


@pytest.mark.rule(189, 190, 191, 194, 196, 197, 198, 199)
@pytest.mark.parametrize(("name", "reason"), IGNORED.values(), ids=IGNORED.keys())
def test_ignored_variables_are_reported_with_the_reason(name: str, reason: str) -> None:
    (line,) = warnings({name: "1"})
    assert line.startswith(f"{name} has no effect: ")
    assert reason in line


@pytest.mark.rule(198, 199)
def test_storage_engine_and_unknown_ollama_variables_are_reported() -> None:
    environ = {
        "OLLAMA_NOPRUNE": "1",
        "OLLAMA_MAX_TRANSFER_STREAMS": "4",
        "OLLAMA_KV_CACHE_TYPE": "q8_0",
        "OLLAMA_SOMETHING_NEW": "1",
        "LLAMA_ARG_FIT": "on",
        "OLLAMA_MODELS": " '' ",
        "OLLAMA_HOST": "0.0.0.0",
        "CUDA_VISIBLE_DEVICES": "0",
        "VLLAMA_FLEET": "x",
    }
    assert ignored(environ) == [
        "LLAMA_ARG_FIT",
        "OLLAMA_KV_CACHE_TYPE",
        "OLLAMA_MAX_TRANSFER_STREAMS",
        "OLLAMA_NOPRUNE",
        "OLLAMA_SOMETHING_NEW",
    ]


@pytest.mark.rule(200)
def test_variables_of_ollamas_command_line_are_not_reported() -> None:
    assert warnings({"OLLAMA_EDITOR": "vi", "OLLAMA_NOHISTORY": "1"}) == []


@pytest.mark.rule(195)
@pytest.mark.parametrize(
    ("value", "named"), [("1", False), ("true", False), ("yes, please", False), ("0", True), (" 'False' ", True)]
)
def test_no_cloud_is_reported_only_if_it_is_false(value: str, named: bool) -> None:
    assert bool(warnings({"OLLAMA_NO_CLOUD": value})) is named


def test_supported_variables_with_invalid_values_are_reported() -> None:
    environ = {
        "OLLAMA_KEEP_ALIVE": "soon",
        "OLLAMA_LOAD_TIMEOUT": "1.5",
        "OLLAMA_MAX_QUEUE": "-1",
        "OLLAMA_DEBUG": "loud",
        "OLLAMA_HOST": "x:y",
    }
    assert invalid(environ) == ["OLLAMA_KEEP_ALIVE", "OLLAMA_LOAD_TIMEOUT", "OLLAMA_MAX_QUEUE"]
    assert "default" in warnings(environ)[0]
    assert invalid({"OLLAMA_KEEP_ALIVE": "5m0s", "OLLAMA_LOAD_TIMEOUT": "-1", "OLLAMA_MAX_QUEUE": "3"}) == []


def test_supported_variables_are_not_reported() -> None:
    assert ignored(dict.fromkeys(SUPPORTED, "1")) == []
