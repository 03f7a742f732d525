"""Small model folders with real safetensors files."""

from __future__ import annotations

import json
import struct
from collections.abc import Mapping, Sequence
from math import prod
from pathlib import Path
from typing import Any

from vllama_pool.workers.model.safetensors import BITS

LLAMA = {
    "architectures": ["LlamaForCausalLM"],
    "model_type": "llama",
    "dtype": "bfloat16",
    "hidden_size": 64,
    "intermediate_size": 128,
    "max_position_embeddings": 4096,
    "num_attention_heads": 4,
    "num_hidden_layers": 2,
    "num_key_value_heads": 2,
    "rms_norm_eps": 1e-05,
    "rope_parameters": {"rope_theta": 10000.0, "rope_type": "default"},
    "vocab_size": 32,
}
TOOL_TEMPLATE = "{% if tools %}{{ tools }}{% endif %}{% if enable_thinking %}<think>{% endif %}{{ messages }}"


def write_safetensors(path: Path, tensors: Mapping[str, tuple[str, Sequence[int]]], fill: int = 1) -> None:
    """Write a file whose weights have the byte `fill`."""
    header, offset = {}, 0
    for name, (dtype, shape) in tensors.items():
        size = prod(shape) * BITS[dtype] // 8
        header[name] = {"dtype": dtype, "shape": list(shape), "data_offsets": [offset, offset + size]}
        offset += size
    head = json.dumps({"__metadata__": {"format": "pt"}, **header}).encode()
    path.write_bytes(struct.pack("<Q", len(head)) + head + bytes([fill]) * offset)


def write_model(folder: Path, *, config: Mapping[str, Any] = LLAMA, fill: int = 1, **files: str) -> Path:
    """Write a config, a tokenizer and 64 x 32 + 64 = 2112 BF16 weights.

    Further files are text by name, with "_dot_" for the dot: chat_template_dot_jinja="…".
    """
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text(json.dumps(config))
    (folder / "tokenizer.json").write_text("{}")
    tensors = {"model.embed_tokens.weight": ("BF16", (32, 64)), "model.norm.weight": ("BF16", (64,))}
    write_safetensors(folder / "model.safetensors", tensors, fill)
    for name, text in files.items():
        (folder / name.replace("_dot_", ".")).write_text(text)
    return folder
