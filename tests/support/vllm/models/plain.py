"""A tiny Llama with random weights and no chat template: it completes, and cannot chat.

python plain.py OUT
"""

from __future__ import annotations

import sys
from pathlib import Path

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

TEXT = ["a llama walks up the hill and another one walks down", "one two three four five six seven"]
CONTEXT = 2048


def tokenizer() -> PreTrainedTokenizerFast:
    """Byte-level, so that every text can be encoded."""
    bpe = Tokenizer(models.BPE())
    bpe.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    bpe.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    bpe.train_from_iterator(
        TEXT * 20,
        trainers.BpeTrainer(vocab_size=320, special_tokens=["<|end|>", "<|pad|>"], initial_alphabet=alphabet),
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=bpe, eos_token="<|end|>", pad_token="<|pad|>", model_max_length=CONTEXT
    )


def build(out: Path) -> None:
    tokens = tokenizer()
    tokens.save_pretrained(out)
    config = LlamaConfig(
        vocab_size=(len(tokens) + 63) // 64 * 64,
        hidden_size=128,
        intermediate_size=256,
        num_hidden_layers=2,
        num_attention_heads=2,  # 64 per head: vLLM's CPU attention wants 32 or more
        num_key_value_heads=1,
        max_position_embeddings=CONTEXT,
        tie_word_embeddings=True,
        bos_token_id=None,
        eos_token_id=tokens.eos_token_id,
        pad_token_id=tokens.pad_token_id,
    )
    torch.manual_seed(11)
    LlamaForCausalLM(config).bfloat16().save_pretrained(out)


if __name__ == "__main__":
    build(Path(sys.argv[1]))
