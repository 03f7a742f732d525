"""Convert the GGUF file of SmolLM2-135M-Instruct to a model folder for vLLM.

    python smollm2.py MODEL.gguf TEMPLATE.jinja OUT

The folder gets the given chat template instead of the model's own, which knows no tools. The weights are dequantised
from Q4_1 to bfloat16, the type of the original. Needs gguf, torch, transformers and safetensors.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import torch
from gguf import GGUFReader
from gguf.quants import dequantize
from safetensors.torch import save_file
from transformers import AutoConfig, AutoTokenizer, LlamaConfig

OUTER = {"token_embd": "model.embed_tokens", "output_norm": "model.norm"}
INNER = {
    "attn_norm": "input_layernorm",
    "attn_q": "self_attn.q_proj",
    "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj",
    "attn_output": "self_attn.o_proj",
    "ffn_norm": "post_attention_layernorm",
    "ffn_gate": "mlp.gate_proj",
    "ffn_up": "mlp.up_proj",
    "ffn_down": "mlp.down_proj",
}


def parameter(name: str) -> str:
    """Translate a tensor's GGUF name, such as blk.3.attn_q.weight, to its name in transformers' Llama."""
    match name.split("."):
        case [outer, "weight"] if outer in OUTER:
            return f"{OUTER[outer]}.weight"
        case ["blk", layer, inner, "weight"] if inner in INNER:
            return f"model.layers.{layer}.{INNER[inner]}.weight"
    raise ValueError(f"unexpected tensor {name}")


def rotary_heads(name: str, config: LlamaConfig) -> int:
    """Return the number of rotary heads in a tensor's rows; 0 if the tensor is not rotated."""
    if name.endswith(".attn_q.weight"):
        return int(config.num_attention_heads)
    return int(config.num_key_value_heads) if name.endswith(".attn_k.weight") else 0


def halves_from_pairs(weight: torch.Tensor, heads: int) -> torch.Tensor:
    """Reorder each head's rows from GGUF's interleaved pairs to transformers' two halves."""
    rows, *rest = weight.shape
    paired = weight.reshape(heads, rows // heads // 2, 2, *rest)
    return paired.transpose(1, 2).reshape(rows, *rest)


def weights(source: Path, config: LlamaConfig) -> dict[str, torch.Tensor]:
    tensors = {}
    for tensor in GGUFReader(source).tensors:
        weight = torch.tensor(dequantize(tensor.data, tensor.tensor_type))
        heads = rotary_heads(tensor.name, config)
        if heads:
            weight = halves_from_pairs(weight, heads)
        tensors[parameter(tensor.name)] = weight.to(torch.bfloat16).contiguous()
    return tensors


def build(source: Path, template: Path, out: Path) -> None:
    out.mkdir(parents=True)
    tokenizer = AutoTokenizer.from_pretrained(source.parent, gguf_file=source.name)
    tokenizer.chat_template = template.read_text()
    tokenizer.save_pretrained(out)
    config = AutoConfig.from_pretrained(source.parent, gguf_file=source.name)
    config.architectures = ["LlamaForCausalLM"]
    config.dtype = "bfloat16"
    config.tie_word_embeddings = True  # the file has no separate output matrix
    if hasattr(config, "quantization_config"):
        del config.quantization_config  # describes the GGUF file, not these weights
    config.save_pretrained(out)
    save_file(weights(source, config), out / "model.safetensors", metadata={"format": "pt"})


def main() -> None:
    parser = argparse.ArgumentParser(description="Convert SmolLM2's GGUF file to a model folder for vLLM.")
    parser.add_argument("gguf", type=Path)
    parser.add_argument("template", type=Path)
    parser.add_argument("out", type=Path)
    arguments = parser.parse_args()
    build(arguments.gguf, arguments.template, arguments.out)


if __name__ == "__main__":
    main()
