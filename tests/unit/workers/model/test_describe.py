"""Descriptions of models: capabilities, digests, sizes, defaults."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path
from typing import Any

import pytest

from tests.support.vllm.model_folder import LLAMA, TOOL_TEMPLATE, write_model, write_safetensors
from vllama_pool.workers.model.config_json import model_info, quantization
from vllama_pool.workers.model.describe import Observed, describe, slim
from vllama_pool.workers.model.files import hub_cache, is_repository, locate
from vllama_pool.workers.registry.record import ModelInfo
from vllama_pool.workers.vllm.flags import Flags
from vllama_pool.workers.vllm.probe import ServedModel

PARSERS = ("--enable-auto-tool-choice", "--tool-call-parser", "hermes", "--reasoning-parser", "qwen3")


def describe_one(
    folder: Path, *flags: str, tasks: tuple[str, ...] = ("completion",), templated: bool | None = None
) -> ModelInfo:
    observed = Observed((ServedModel("m:1", str(folder), "", 2048),), tasks, templated)
    (info,) = describe(str(folder), Flags(flags), observed, {})
    return info


def test_a_llama_model_is_described_from_its_files(tmp_path: Path) -> None:
    folder = write_model(tmp_path / "m", chat_template_dot_jinja="{{ messages }}")
    info = describe_one(folder)
    assert (info.name, info.architecture, info.quantization, info.format) == ("m:1", "llama", "BF16", "safetensors")
    assert info.parameter_count == 2112
    assert info.size == (folder / "model.safetensors").stat().st_size
    assert (info.context_length, info.embedding_length) == (2048, 64)
    assert info.capabilities == ("completion",)
    assert (info.has_template, info.template) == (True, "{{ messages }}")
    assert info.metadata["block_count"] == 2
    assert info.metadata["attention.head_count_kv"] == 2
    assert info.metadata["rope.freq_base"] == 10000.0


def test_copies_of_a_model_have_equal_digests(tmp_path: Path) -> None:
    one = write_model(tmp_path / "one", chat_template_dot_jinja="{{ messages }}")
    two = tmp_path / "elsewhere" / "two"
    shutil.copytree(one, two)
    for path in two.iterdir():
        os.utime(path, (1, 1))
    assert describe_one(one).digest == describe_one(two).digest
    assert len(describe_one(one).digest) == 64
    assert describe_one(two).modified_at == 1


def test_weights_config_and_template_change_the_digest(tmp_path: Path) -> None:
    plain = write_model(tmp_path / "plain")
    tuned = write_model(tmp_path / "tuned", fill=2)
    longer = write_model(tmp_path / "longer", config={**LLAMA, "max_position_embeddings": 8192})
    templated = write_model(tmp_path / "templated", chat_template_dot_jinja="x")
    assert len({describe_one(folder).digest for folder in (plain, tuned, longer, templated)}) == 4


def test_a_readme_does_not_change_the_digest(tmp_path: Path) -> None:
    assert (
        describe_one(write_model(tmp_path / "a")).digest
        == describe_one(write_model(tmp_path / "b", README_dot_md="hello")).digest
    )


def test_tools_and_thinking_need_template_and_parsers(tmp_path: Path) -> None:
    knowing = write_model(tmp_path / "knowing", chat_template_dot_jinja=TOOL_TEMPLATE)
    plain = write_model(tmp_path / "plain", chat_template_dot_jinja="{{ messages }}")
    assert describe_one(knowing).capabilities == ("completion",)
    assert describe_one(knowing, *PARSERS).capabilities == ("completion", "tools", "thinking")
    assert describe_one(knowing, "--tool-call-parser", "hermes").capabilities == ("completion",)
    assert describe_one(plain, *PARSERS).capabilities == ("completion",)


def test_chat_templates_are_found_in_files_and_flags(tmp_path: Path) -> None:
    listed = [{"name": "tool_use", "template": "{{ tools }}"}, {"name": "default", "template": "plain"}]
    config = json.dumps({"chat_template": listed})
    named = describe_one(write_model(tmp_path / "named", tokenizer_config_dot_json=config), *PARSERS)
    assert named.template == "plain"
    assert "tools" in named.capabilities
    bare = write_model(tmp_path / "bare")
    assert (describe_one(bare).has_template, describe_one(bare).template) == (False, "")
    given = tmp_path / "given.jinja"
    given.write_text("from a file")
    assert describe_one(bare, "--chat-template", str(given)).template == "from a file"
    assert describe_one(bare, "--chat-template={{ x }}").template == "{{ x }}"
    assert describe_one(write_model(tmp_path / "mistral", tekken_dot_json="{}")).has_template


def test_the_servers_templating_overrides_the_files(tmp_path: Path) -> None:
    assert describe_one(write_model(tmp_path / "a"), templated=True).has_template
    assert not describe_one(write_model(tmp_path / "b", chat_template_dot_jinja="x"), templated=False).has_template


@pytest.mark.rule(176)
def test_an_embedding_model_has_only_the_embedding_capability(tmp_path: Path) -> None:
    folder = write_model(tmp_path / "m", chat_template_dot_jinja=TOOL_TEMPLATE, modules_dot_json="[]")
    assert describe_one(folder, *PARSERS, tasks=("embedding",)).capabilities == ("embedding",)


def test_vision_is_read_from_a_nested_config(tmp_path: Path) -> None:
    config = {
        "model_type": "llava",
        "text_config": LLAMA,
        "vision_config": {"hidden_size": 32, "image_size": 56, "num_hidden_layers": 3, "patch_size": 14},
    }
    info = describe_one(write_model(tmp_path / "m", config=config))
    assert info.capabilities == ("completion", "vision")
    assert (info.architecture, info.embedding_length) == ("llava", 64)
    assert (info.metadata["block_count"], info.metadata["vision.block_count"]) == (2, 3)
    text_only = describe_one(tmp_path / "m", "--limit-mm-per-prompt", '{"image": 0}')
    assert text_only.capabilities == ("completion",)
    assert not any(key.startswith("vision.") for key in text_only.metadata)


def test_sampling_defaults_have_ollamas_option_names(tmp_path: Path) -> None:
    generation = {"temperature": 0.6, "top_k": 20, "repetition_penalty": 1.1, "max_new_tokens": 99, "eos_token_id": [1]}
    folder = write_model(tmp_path / "m", generation_config_dot_json=json.dumps(generation))
    ours = {"temperature": 0.6, "top_k": 20, "repeat_penalty": 1.1, "num_predict": 99}
    assert describe_one(folder).defaults == ours
    assert describe_one(folder, "--generation-config", "vllm").defaults == {}
    changed = describe_one(folder, "--override-generation-config", '{"top_k": 5}')
    assert changed.defaults == ours | {"top_k": 5}


def test_a_licence_is_a_text_or_the_readmes_id(tmp_path: Path) -> None:
    front = "---\nlanguage: en\nlicense: apache-2.0\n---\n# Model\nlicense: not this\n"
    assert describe_one(write_model(tmp_path / "a", README_dot_md=front)).license == "apache-2.0"
    other = "---\nlicense: other\nlicense_name: gemma\n---\n"
    assert describe_one(write_model(tmp_path / "b", README_dot_md=other)).license == "gemma"
    both = write_model(tmp_path / "c", README_dot_md=front, LICENSE="The whole text.\n")
    assert describe_one(both).license == "The whole text."
    assert describe_one(write_model(tmp_path / "d", README_dot_md="license: mit")).license == ""


def test_of_two_weight_formats_only_one_is_counted(tmp_path: Path) -> None:
    folder = write_model(tmp_path / "m")
    write_safetensors(folder / "consolidated.safetensors", {"x": ("BF16", (1000,))})
    assert describe_one(folder).parameter_count == 2112
    assert describe_one(folder).size == (folder / "model.safetensors").stat().st_size


def test_sizes_of_shards_are_summed(tmp_path: Path) -> None:
    folder = write_model(tmp_path / "m")
    (folder / "model.safetensors").unlink()
    write_safetensors(folder / "model-00001-of-00002.safetensors", {"a.weight": ("F16", (10,))})
    write_safetensors(folder / "model-00002-of-00002.safetensors", {"b.weight": ("F16", (20,))})
    info = describe_one(folder)
    assert (info.parameter_count, info.quantization) == (30, "F16")
    assert info.size == sum(path.stat().st_size for path in folder.glob("model-*"))


def test_broken_model_files_leave_defaults(tmp_path: Path) -> None:
    folder = write_model(tmp_path / "m", tokenizer_config_dot_json="{not json")
    (folder / "config.json").write_text("[]")
    (folder / "model.safetensors").write_bytes(b"cut off")
    info = describe_one(folder)
    assert (info.architecture, info.parameter_count, info.quantization) == ("", 0, "")
    assert info.size == 7
    assert len(info.digest) == 64


def test_an_adapters_size_and_digest_cover_its_base(tmp_path: Path) -> None:
    folder = write_model(tmp_path / "m", chat_template_dot_jinja="t")
    lora = tmp_path / "lora"
    lora.mkdir()
    (lora / "adapter_config.json").write_text("{}")
    write_safetensors(lora / "adapter_model.safetensors", {"a": ("F32", (4,))})
    observed = Observed(
        (
            ServedModel("m:1", str(folder), "", 2048),
            ServedModel("alias", str(folder), "", 2048),
            ServedModel("ada", str(lora), "m:1", 0),
            ServedModel("lost", str(tmp_path / "gone"), "m:1", 0),
        )
    )
    base, ada, lost = describe(str(folder), Flags([]), observed, {})
    assert base.aliases == ("alias",)
    assert (ada.name, ada.parent, ada.aliases, ada.context_length) == ("ada", "m:1", (), 2048)
    assert ada.size == base.size + (lora / "adapter_model.safetensors").stat().st_size
    assert len(ada.digest) == 64
    assert ada.digest != base.digest
    assert (lost.digest, lost.size, lost.template) == ("", base.size, "t")


def test_a_repository_is_found_in_the_hub_cache(tmp_path: Path) -> None:
    repository = tmp_path / "hub" / "models--org--tiny"
    snapshot = write_model(repository / "snapshots" / "abc123")
    (repository / "refs").mkdir()
    (repository / "refs" / "main").write_text("abc123")
    env = {"HF_HOME": str(tmp_path)}
    observed = Observed((ServedModel("tiny", "org/tiny", "", 64),))
    (info,) = describe("org/tiny", Flags([]), observed, env)
    assert info.digest == describe_one(write_model(tmp_path / "copy")).digest
    (pinned,) = describe("org/tiny", Flags(["--revision", "abc123"]), observed, env)
    assert pinned == info
    files = locate("org/tiny", {}, download_dir=str(tmp_path / "hub"))
    assert files is not None
    assert files.folders == (snapshot,)


def test_a_remote_model_is_described_by_the_server_alone(tmp_path: Path) -> None:
    observed = Observed((ServedModel("far", "org/far", "", 512),), ("completion",), False)
    (info,) = describe("org/far", Flags([]), observed, {"HF_HOME": str(tmp_path)})
    assert info == ModelInfo(name="far", context_length=512, has_template=False)


def test_without_files_parser_flags_give_capabilities(tmp_path: Path) -> None:
    observed = Observed((ServedModel("far", "org/far", "", 512),))
    (info,) = describe("org/far", Flags(PARSERS), observed, {"HF_HOME": str(tmp_path)})
    assert info.capabilities == ("completion", "tools", "thinking")


def test_detected_abilities_count_without_flags_and_files(tmp_path: Path) -> None:
    shown = ("completion", "tools", "thinking")
    observed = Observed((ServedModel("far", "org/far", "", 512),), shown)
    (info,) = describe("org/far", Flags([]), observed, {"HF_HOME": str(tmp_path)})
    assert info.capabilities == shown
    plain = write_model(tmp_path / "plain", chat_template_dot_jinja="{{ messages }}")
    assert describe_one(plain, tasks=shown).capabilities == ("completion",), "a template that knows neither"


def test_an_oversized_record_drops_only_texts() -> None:
    base = ModelInfo(name="b", template="t" * 500, license="l" * 500)
    adapters = tuple(ModelInfo(name=f"a{n}", parent="b", template="t" * 500) for n in range(3))
    whole = (base, *adapters)
    assert slim(whole, 10_000) == whole
    first, *others = slim(whole, 1800)
    assert first == base
    assert {info.template for info in others} == {""}
    assert [info.name for info in slim(whole, 1)] == ["b", "a0", "a1", "a2"]
    assert slim(whole, 1)[0].template == ""


@pytest.mark.parametrize("name", ["org/../../etc", "../up", "/abs", "a/b/c", "org/..", ""])
def test_invalid_repository_ids_are_rejected(name: str) -> None:
    assert not is_repository(name)


def test_the_hub_cache_follows_its_environment_variables() -> None:
    assert hub_cache({"HF_HUB_CACHE": "/a"}) == Path("/a")
    assert hub_cache({"HF_HOME": "/h"}) == Path("/h/hub")
    assert hub_cache({"XDG_CACHE_HOME": "/x"}) == Path("/x/huggingface/hub")
    assert hub_cache({}) == Path("~/.cache/huggingface/hub").expanduser()


@pytest.mark.parametrize(
    ("settings", "label"),
    [
        ({"quant_method": "awq", "bits": 4}, ("AWQ-INT4", 4)),
        ({"quant_method": "gptq", "bits": 8}, ("GPTQ-INT8", 8)),
        ({"quant_method": "fp8"}, ("FP8", 8)),
        ({"quant_method": "mxfp4"}, ("MXFP4", 4)),
        ({"quant_method": "bitsandbytes", "load_in_4bit": True}, ("BNB-INT4", 4)),
        ({"quant_method": "modelopt", "quant_algo": "NVFP4"}, ("NVFP4", 4)),
        ({"quant_method": "modelopt", "quant_algo": "FP8"}, ("FP8", 8)),
        (
            {"quant_method": "compressed-tensors", "config_groups": {"g": {"weights": {"num_bits": 4, "type": "int"}}}},
            ("INT4", 4),
        ),
        (
            {
                "quant_method": "compressed-tensors",
                "config_groups": {"g": {"weights": {"num_bits": 8, "type": "float"}}},
            },
            ("FP8", 8),
        ),
        ({"quant_method": "novel"}, ("NOVEL", 0)),
    ],
)
def test_quantisation_settings_give_ollamas_label(settings: dict[str, Any], label: tuple[str, int]) -> None:
    assert quantization({"quantization_config": settings}, "BF16") == label


def test_unquantised_models_are_labelled_by_dtype() -> None:
    assert quantization({}, "BF16") == ("BF16", 0)
    assert quantization({}, "F8_E4M3") == ("FP8", 0)
    assert quantization({}, "BF16", "fp8") == ("FP8", 0)


def test_model_info_skips_invalid_values_and_reads_experts() -> None:
    info = model_info({"num_experts": 8, "num_experts_per_tok": 2, "vocab_size": "many", "head_dim": None})
    assert info == {"expert_count": 8, "expert_used_count": 2}
    per_layer = {"rope_parameters": {"full_attention": {"rope_theta": 1e6}, "sliding_attention": {"rope_theta": 1e4}}}
    assert model_info(per_layer) == {"rope.freq_base": 1e6}


def test_abilities_that_may_be_detected_later_are_undetected(tmp_path: Path) -> None:
    unknown = ("tools", "thinking", "vision")
    observed = Observed((ServedModel("far", "org/far", "", 512),), undetected=unknown)
    (info,) = describe("org/far", Flags([]), observed, {"HF_HOME": str(tmp_path)})
    assert (info.capabilities, info.undetected) == (("completion",), ("vision", "tools", "thinking"))
    (info,) = describe("org/far", Flags(PARSERS), observed, {"HF_HOME": str(tmp_path)})
    assert (info.capabilities, info.undetected) == (("completion", "tools", "thinking"), ("vision",))


def test_files_and_flags_leave_fewer_abilities_undetected(tmp_path: Path) -> None:
    folder = write_model(tmp_path / "m", chat_template_dot_jinja="{{ tools }}")
    observed = Observed((ServedModel("m", str(folder), "", 512),), undetected=("tools", "thinking", "vision"))
    (info,) = describe(str(folder), Flags([]), observed, {})
    assert info.undetected == ("tools",), "its template does not think, and config.json has no vision"
