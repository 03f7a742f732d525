"""Ollama's environment variables: those that apply, and why the others do not (R185-R200)."""

from __future__ import annotations

from collections.abc import Mapping

from vllama_pool.config.environment import translate_ollama_value, trimmed

SUPPORTED = frozenset(
    {
        "OLLAMA_HOST",
        "OLLAMA_ORIGINS",
        "OLLAMA_KEEP_ALIVE",
        "OLLAMA_MAX_QUEUE",
        "OLLAMA_LOAD_TIMEOUT",
        "OLLAMA_DEBUG",
    }
)
_EXPECTED = {
    "OLLAMA_KEEP_ALIVE": "a duration such as 5m, or whole seconds",
    "OLLAMA_LOAD_TIMEOUT": "a duration such as 5m, or whole seconds",
    "OLLAMA_MAX_QUEUE": "a whole number from 0 to 999999999",
}
"""Values of the variables whose invalid values Ollama ignores."""
_NOT_FOR_SERVERS = frozenset({"OLLAMA_EDITOR", "OLLAMA_NOHISTORY"})
"""Variables of Ollama's command line (R200)."""
_FALSE = frozenset({"0", "f", "F", "false", "FALSE", "False"})
"""Go's false values. Ollama treats unparsable values as true."""

_BY_FLAGS = "vLLM is configured by its own flags"
_BY_MODEL = "--model sets where vLLM reads its model"
_REASONS = {
    "OLLAMA_NUM_PARALLEL": "--max-num-seqs sets the number of concurrent requests",
    "OLLAMA_MAX_LOADED_MODELS": "each worker keeps its model loaded while it runs",
    "OLLAMA_CONTEXT_LENGTH": "--max-model-len sets a model's context length",
    "OLLAMA_DEBUG_LOG_REQUESTS": "prompts are never logged",
    "OLLAMA_NO_CLOUD": "vLLama never uses ollama.com",
    "OLLAMA_REMOTES": "vLLama has no remote models",
    "OLLAMA_AUTH": "VLLAMA_API_KEYS sets the API keys",
    "OLLAMA_MODELS": _BY_MODEL,
    "OLLAMA_NOPRUNE": _BY_MODEL,
    "OLLAMA_MAX_TRANSFER_STREAMS": _BY_MODEL,
}


def warnings(environ: Mapping[str, str]) -> list[str]:
    """Return a line for each variable that has no counterpart or an invalid value."""
    lines = [f"{name} has no effect: {_REASONS.get(name, _BY_FLAGS)}" for name in ignored(environ)]
    lines += [
        f"{name}: '{trimmed(environ[name])[:40]}' is not {_EXPECTED[name]}: the default applies, as in Ollama"
        for name in invalid(environ)
    ]
    return lines


def ignored(environ: Mapping[str, str]) -> list[str]:
    """Return the variables without a counterpart, sorted (R189-R199)."""
    return sorted(name for name, value in environ.items() if _is_ignored(name, trimmed(value)))


def invalid(environ: Mapping[str, str]) -> list[str]:
    """Return the supported variables with an invalid value, sorted."""
    values = {name: trimmed(environ.get(name, "")) for name in SUPPORTED}
    return sorted(name for name, value in values.items() if value and translate_ollama_value(name, value) is None)


def _is_ignored(name: str, value: str) -> bool:
    if not value or not name.startswith(("OLLAMA_", "LLAMA_ARG_")) or name in SUPPORTED | _NOT_FOR_SERVERS:
        return False
    return name != "OLLAMA_NO_CLOUD" or value in _FALSE  # true is the default here (R195)
