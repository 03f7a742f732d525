"""Facts about a model that are read before it is served."""

from __future__ import annotations

import json
from pathlib import Path

from tests.support.vllm.model_folder import write_model
from vllama_pool.workers.model.facts import ModelFacts, read_facts
from vllama_pool.workers.model.files import ModelFiles
from vllama_pool.workers.vllm.flags import Flags


def read(folder: Path, *flags: str) -> ModelFacts:
    return read_facts(str(folder), ModelFiles((folder,)), Flags(flags), ("<|python_tag|>", "<other>"))


def test_facts_are_read_from_a_complete_model(tmp_path: Path) -> None:
    added = json.dumps({"<|python_tag|>": 7})
    folder = write_model(tmp_path / "m", chat_template_dot_jinja="{{ messages }}", added_tokens_dot_json=added)
    assert read(folder) == ModelFacts(
        "m", files=True, model_type="llama", templates=("{{ messages }}",), special_tokens=frozenset({"<|python_tag|>"})
    )
    assert read(folder, "--chat-template={{ x }}").templates == ("{{ x }}",)


def test_mistral_tokenizers_and_embedding_models_are_recognized(tmp_path: Path) -> None:
    assert read(write_model(tmp_path / "a", tekken_dot_json="{}")).mistral_tokenizer
    assert read(write_model(tmp_path / "b", modules_dot_json="[]")).is_embedding


def test_an_incomplete_model_is_known_only_by_its_name(tmp_path: Path) -> None:
    assert read_facts("Qwen/Qwen3-8B", None, Flags(()), ()) == ModelFacts("Qwen3-8B")
    folder = write_model(tmp_path / "partly")
    (folder / "model.safetensors").unlink()
    assert not read(folder).files
