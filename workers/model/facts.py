"""A model's chat templates and special tokens, from which parsers and capabilities are derived."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path

from vllama_pool.workers.model.files import MAX_TEXT, ModelFiles
from vllama_pool.workers.vllm.flags import Flags

_MISTRAL_FILES = ("tekken.json", "tokenizer.model.v3", "tokenizer.model.v7")
_VOCABULARIES = ("added_tokens.json", "tokenizer_config.json", "tokenizer.json")


@dataclass(frozen=True, slots=True)
class ModelFacts:
    """Facts about a model before it is served."""

    name: str
    """Without the folder or organisation."""
    files: bool = False
    """True if the files are complete."""
    model_type: str = ""
    templates: tuple[str, ...] = ()
    """The default one first."""
    special_tokens: frozenset[str] = frozenset()
    """Those of the requested ones that the tokenizer has."""
    mistral_tokenizer: bool = False
    """mistral-common renders chats, without a template."""
    is_embedding: bool = False


def read_facts(model: str, files: ModelFiles | None, flags: Flags, special_tokens: Collection[str]) -> ModelFacts:
    """`files` is None before the download. `special_tokens` are those to search for."""
    name = Path(model).name
    if files is None:
        return ModelFacts(name)
    templates = chat_templates(files, flags)
    return ModelFacts(
        name,
        files=bool(files.find("config.json") and (templates or files.weight_files)),
        model_type=str(files.json("config.json").get("model_type", "")),
        templates=templates,
        special_tokens=frozenset(
            mark for mark in special_tokens if any(files.mentions(place, mark) for place in _VOCABULARIES)
        ),
        mistral_tokenizer=has_mistral_tokenizer(files),
        is_embedding=files.find("modules.json") is not None,
    )


def chat_templates(files: ModelFiles, flags: Flags) -> tuple[str, ...]:
    """Return the templates that vLLM would use, the default one first."""
    given = flags.value("--chat-template")
    if given:
        path = Path(given)
        if "{" not in given and path.is_file() and path.stat().st_size <= MAX_TEXT:
            return (path.read_text("utf-8", "replace"),)
        return (given,)
    if text := files.text("chat_template.jinja"):
        return (text,)
    for name in ("tokenizer_config.json", "chat_template.json"):
        template = files.json(name).get("chat_template")
        if isinstance(template, str) and template:
            return (template,)
        if isinstance(template, list):
            named = [entry for entry in template if isinstance(entry, dict)]
            named.sort(key=lambda entry: entry.get("name") != "default")
            if texts := tuple(str(entry.get("template", "")) for entry in named):
                return texts
    return ()


def has_mistral_tokenizer(files: ModelFiles) -> bool:
    return any(files.find(name) for name in _MISTRAL_FILES)
