"""Ollama's own variables: which are honoured, and why the others have no effect (R185-R200)."""

from __future__ import annotations

from collections.abc import Mapping

from vllama_pool.config.environment import as_ollama, trimmed

HONOURED = frozenset(
    {
        "OLLAMA_HOST",
        "OLLAMA_ORIGINS",
        "OLLAMA_KEEP_ALIVE",
        "OLLAMA_MAX_QUEUE",
        "OLLAMA_LOAD_TIMEOUT",
        "OLLAMA_DEBUG",
    }
)
_NOT_FOR_SERVERS = frozenset({"OLLAMA_EDITOR", "OLLAMA_NOHISTORY"})
"""The client's own (R200)."""
_FALSE = frozenset({"0", "f", "F", "false", "FALSE", "False"})
"""What Go reads as false. What it cannot read counts as true."""

_BY_FLAGS = "vLLM is configured by its own flags"
_BY_MODEL = "vLLM reads models from where --model says"
_WHY = {
    "OLLAMA_NUM_PARALLEL": "vLLM takes as many requests at once as --max-num-seqs says",
    "OLLAMA_MAX_LOADED_MODELS": "every worker keeps its model for as long as it runs",
    "OLLAMA_CONTEXT_LENGTH": "a model's context is what --max-model-len says",
    "OLLAMA_DEBUG_LOG_REQUESTS": "prompts are never logged",
    "OLLAMA_NO_CLOUD": "there is no cloud here, so that it is always off",
    "OLLAMA_REMOTES": "there are no remote models here",
    "OLLAMA_AUTH": "VLLAMA_API_KEYS says who may come in",
    "OLLAMA_MODELS": _BY_MODEL,
    "OLLAMA_NOPRUNE": _BY_MODEL,
    "OLLAMA_MAX_TRANSFER_STREAMS": _BY_MODEL,
}


def without_effect(environ: Mapping[str, str]) -> list[str]:
    """A line for each of Ollama's variables that is set and changes nothing, to be told once: what has no
    counterpart here, and what cannot be read, where the default is taken as Ollama does it."""
    lines = [f"{name} has no effect: {_WHY.get(name, _BY_FLAGS)}" for name in ignored(environ)]
    lines += [f"{name} cannot be read: its default is taken, as Ollama does" for name in misread(environ)]
    return lines


def ignored(environ: Mapping[str, str]) -> list[str]:
    """Those without a counterpart, sorted (R189-R199)."""
    return sorted(name for name, value in environ.items() if _is_ignored(name, trimmed(value)))


def misread(environ: Mapping[str, str]) -> list[str]:
    """Those that are honoured and set to what cannot be read, sorted."""
    values = {name: trimmed(environ.get(name, "")) for name in HONOURED}
    return sorted(name for name, value in values.items() if value and as_ollama(name, value) is None)


def _is_ignored(name: str, value: str) -> bool:
    if not value or not name.startswith(("OLLAMA_", "LLAMA_ARG_")) or name in HONOURED | _NOT_FOR_SERVERS:
        return False
    return name != "OLLAMA_NO_CLOUD" or value in _FALSE  # true is what it is here (R195)
