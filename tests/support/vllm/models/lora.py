"""A random LoRA adapter for the tiny Qwen3: rank 4 on every layer's q and v, enough for the answer to change.

    python lora.py OUT BASE

BASE is the folder that qwen3.py built.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import torch
from safetensors.torch import save_file
from transformers import AutoConfig

RANK = 4


def build(out: Path, base: Path) -> None:
    config = AutoConfig.from_pretrained(base)
    outputs = {"q_proj": config.num_attention_heads, "v_proj": config.num_key_value_heads}
    torch.manual_seed(11)
    tensors = {}
    for layer in range(config.num_hidden_layers):
        for name, heads in outputs.items():
            key = f"base_model.model.model.layers.{layer}.self_attn.{name}"
            tensors[f"{key}.lora_A.weight"] = torch.randn(RANK, config.hidden_size) * 0.3
            tensors[f"{key}.lora_B.weight"] = torch.randn(heads * config.head_dim, RANK) * 0.3
    out.mkdir(parents=True)
    save_file(tensors, out / "adapter_model.safetensors")
    about = {
        "peft_type": "LORA",
        "task_type": "CAUSAL_LM",
        "base_model_name_or_path": base.name,
        "r": RANK,
        "lora_alpha": 2 * RANK,
        "lora_dropout": 0.0,
        "bias": "none",
        "target_modules": list(outputs),
        "inference_mode": True,
        "modules_to_save": None,
    }
    (out / "adapter_config.json").write_text(json.dumps(about))


if __name__ == "__main__":
    build(Path(sys.argv[1]), Path(sys.argv[2]))
