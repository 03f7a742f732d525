"""Sizes, quantisation and media from config.json. Pure. All keys are optional."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from vllama_pool.workers.vllm.flags import Flags

Config = Mapping[str, Any]


def text_config(config: Config) -> Config:
    """Merge in the nested language model's part."""
    for path in (("text_config",), ("llm_config",), ("language_config",), ("thinker_config", "text_config")):
        part: Any = config
        for key in path:
            part = part.get(key) if isinstance(part, dict) else None
        if isinstance(part, dict):
            return {**config, **part}
    return config


def media(config: Config, flags: Flags) -> list[str]:
    """Return "vision" and "audio", unless the flags disable them."""
    if flags.on("--language-model-only"):
        return []
    limits = flags.object("--limit-mm-per-prompt")
    found = []
    if any(config.get(key) is not None for key in _VISION_KEYS) and limits.get("image") != 0:
        found.append("vision")
    if any(config.get(key) is not None for key in _AUDIO_KEYS) and limits.get("audio") != 0:
        found.append("audio")
    return found


def quantization(config: Config, stored: str, on_load: str | None = None) -> tuple[str, int]:
    """Return Ollama's label and the bits per quantised weight (0: unquantised), such as ("AWQ-INT4", 4).

    `stored` is the main dtype on disk; `on_load` is vLLM's quantisation on load.
    """
    settings = text_config(config).get("quantization_config")
    settings = settings if isinstance(settings, dict) else {}
    method = str(settings.get("quant_method", "")).lower().replace("_", "-")
    if not method:
        plain = "FP8" if stored.startswith("F8") else stored
        return (on_load.upper() if on_load and on_load != "auto" else plain), 0
    kind, bits = _quantized_weights(settings, method)
    if method in ("fp8", "mxfp4", "modelopt", "modelopt-fp4", "compressed-tensors", "fbgemm-fp8"):
        return kind, bits
    name = "BNB" if method == "bitsandbytes" else method.upper()
    return f"{name}-{kind}" if kind else name, bits


def model_info(config: Config, *, vision: bool = False) -> dict[str, str | int | float | bool]:
    """Return Ollama's `model_info` without the architecture prefix."""
    text = text_config(config)
    rope = text.get("rope_parameters")
    if isinstance(rope, dict):
        nested = next((value for value in rope.values() if isinstance(value, dict)), {})
        text = {**nested, **rope, **text}
    heads = number_or_none(text, "num_attention_heads", "n_head", "num_heads")
    table: dict[str, int | float | None] = {
        "block_count": number_or_none(text, "num_hidden_layers", "n_layer", "num_layers"),
        "embedding_length": number_or_none(text, "hidden_size", "n_embd", "d_model"),
        "feed_forward_length": number_or_none(text, "intermediate_size", "ffn_dim", "n_inner"),
        "vocab_size": number_or_none(text, "vocab_size"),
        "attention.head_count": heads,
        "attention.head_count_kv": number_or_none(text, "num_key_value_heads", "num_kv_heads") or heads,
        "attention.key_length": number_or_none(text, "head_dim"),
        "attention.value_length": number_or_none(text, "v_head_dim", "head_dim"),
        "attention.layer_norm_rms_epsilon": number_or_none(text, "rms_norm_eps"),
        "attention.layer_norm_epsilon": number_or_none(text, "layer_norm_eps", "layer_norm_epsilon"),
        "attention.sliding_window": number_or_none(text, "sliding_window")
        if text.get("use_sliding_window", True)
        else None,
        "rope.freq_base": number_or_none(text, "rope_theta"),
        "expert_count": number_or_none(text, "num_local_experts", "num_experts", "n_routed_experts"),
        "expert_used_count": number_or_none(text, "num_experts_per_tok", "num_experts_per_token"),
    }
    vision_config = config.get("vision_config")
    if vision and isinstance(vision_config, dict):
        table |= {
            "vision.block_count": number_or_none(vision_config, "num_hidden_layers", "depth"),
            "vision.embedding_length": number_or_none(vision_config, "hidden_size", "embed_dim"),
            "vision.image_size": number_or_none(vision_config, "image_size"),
            "vision.patch_size": number_or_none(vision_config, "patch_size"),
        }
    return {key: value for key, value in table.items() if value is not None}


def _quantized_weights(settings: Config, method: str) -> tuple[str, int]:
    algorithm = str(settings.get("quant_algo", "")).upper().replace("_", "")
    match method:
        case "fp8" | "fbgemm-fp8":
            return "FP8", 8
        case "mxfp4":
            return "MXFP4", 4
        case "modelopt" | "modelopt-fp4":
            four = method == "modelopt-fp4" or "FP4" in algorithm
            return ("NVFP4", 4) if four else (algorithm or "FP8", 8)
        case "bitsandbytes":
            return ("INT4", 4) if settings.get("load_in_4bit") else ("INT8", 8)
        case "compressed-tensors":
            groups = settings.get("config_groups")
            group: Any = next(iter(groups.values()), None) if isinstance(groups, dict) else None
            weights: Config = (group.get("weights") if isinstance(group, dict) else None) or {}
            bits = number(weights, "num_bits")
            floating = weights.get("type") == "float"
            return ("NVFP4" if bits == 4 else "FP8") if floating else (f"INT{bits}" if bits else "INT"), bits
    bits = number(settings, "bits", "w_bit", "weight_bits")
    return (f"INT{bits}" if bits else ""), bits


def number_or_none(config: Config, *keys: str) -> int | float | None:
    """First of these keys that holds a number."""
    for key in keys:
        value = config.get(key)
        if isinstance(value, int | float) and not isinstance(value, bool):
            return value
    return None


def number(config: Config, *keys: str) -> int:
    """0 for None."""
    return int(number_or_none(config, *keys) or 0)


_VISION_KEYS = ("vision_config", "vision_tower", "mm_vision_tower", "img_processor", "visual")
_AUDIO_KEYS = ("audio_config", "audio_processor")
