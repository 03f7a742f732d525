"""A tiny Idefics3 with random weights: it takes images and answers something.

    python vision.py OUT

Of vLLM's vision models this is one that needs no torchvision. An image is scaled to SIDE pixels and adds a fixed number
of tokens to the prompt: TOKENS_PER_IMAGE and the marks around them.
"""

from __future__ import annotations

import sys
from pathlib import Path

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import (
    Idefics3Config,
    Idefics3ForConditionalGeneration,
    Idefics3ImageProcessorPil,
    Idefics3Processor,
    PreTrainedTokenizerFast,
)

TEXT = ["a picture of a llama on a hill", "what is in this picture", "one two three four five six seven"]
MARKS = ["<image>", "<fake_token_around_image>", "<end_of_utterance>", "<global-img>"]
SIDE, PATCH, SHRINK = 56, 14, 2
TOKENS_PER_IMAGE = (SIDE // PATCH) ** 2 // SHRINK**2
CONTEXT = 1024
TEMPLATE = """\
{%- for message in messages -%}
<|{{ message.role }}|>
{%- if message.content is string %}{{ message.content }}
{%- else -%}
{%- for part in message.content -%}
{%- if part.type == 'image' %}<image>{% elif part.type == 'text' %}{{ part.text }}{% endif -%}
{%- endfor -%}
{%- endif -%}
<end_of_utterance>
{% endfor -%}
{%- if add_generation_prompt %}<|assistant|>{% endif -%}
"""


def tokenizer() -> PreTrainedTokenizerFast:
    """Byte-level, so that every text can be encoded; every mark is one token."""
    bpe = Tokenizer(models.BPE())
    bpe.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    bpe.decoder = decoders.ByteLevel()
    special = ["<|pad|>", *MARKS]
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    bpe.train_from_iterator(
        TEXT * 20, trainers.BpeTrainer(vocab_size=320, special_tokens=special, initial_alphabet=alphabet)
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=bpe, eos_token="<end_of_utterance>", pad_token="<|pad|>", model_max_length=CONTEXT
    )


def processor(tokens: PreTrainedTokenizerFast) -> Idefics3Processor:
    """Whole images only: splitting large ones into tiles would make the number of tokens depend on the image."""
    images = Idefics3ImageProcessorPil(
        size={"longest_edge": SIDE}, max_image_size={"longest_edge": SIDE}, do_image_splitting=False
    )
    return Idefics3Processor(images, tokens, image_seq_len=TOKENS_PER_IMAGE, chat_template=TEMPLATE)


def config(tokens: PreTrainedTokenizerFast) -> Idefics3Config:
    text = {
        "model_type": "llama",
        "vocab_size": (len(tokens) + 63) // 64 * 64,
        "hidden_size": 128,
        "intermediate_size": 256,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,  # 64 per head: vLLM's CPU attention wants 32 or more
        "num_key_value_heads": 1,
        "max_position_embeddings": CONTEXT,
        "bos_token_id": None,
        "eos_token_id": tokens.eos_token_id,
        "pad_token_id": tokens.pad_token_id,
    }
    vision = {
        "hidden_size": 64,
        "intermediate_size": 128,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "image_size": SIDE,
        "patch_size": PATCH,
    }
    return Idefics3Config(
        text_config=text,
        vision_config=vision,
        image_token_id=tokens.convert_tokens_to_ids("<image>"),
        scale_factor=SHRINK,
        pad_token_id=tokens.pad_token_id,
        tie_word_embeddings=False,
    )


def build(out: Path) -> None:
    tokens = tokenizer()
    processor(tokens).save_pretrained(out)
    torch.manual_seed(11)
    Idefics3ForConditionalGeneration(config(tokens)).bfloat16().save_pretrained(out)


if __name__ == "__main__":
    build(Path(sys.argv[1]))
