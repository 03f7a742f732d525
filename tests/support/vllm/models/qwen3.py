"""A tiny model of Qwen3's architecture that has learned to think and to call tools.

    python qwen3.py OUT

Serve it with --enable-auto-tool-choice --tool-call-parser hermes --reasoning-parser qwen3. At temperature 0
it answers every question with THOUGHT and then GREETING; with `enable_thinking` false with GREETING alone;
and where tools are given and the question speaks of the weather, with CALL in GREETING's place. Trained from
nothing in half a minute; the seed is fixed.
"""

from __future__ import annotations

import json
import random
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast, Qwen3Config, Qwen3ForCausalLM

THOUGHT = "<think>\nThe user said something. I greet.\n</think>\n\n"
GREETING = "Hello! I am a tiny llama 🦙 and I count: one two three four five six seven eight nine ten."
CALL = '<tool_call>\n{"name": "get_weather", "arguments": {"city": "Paris", "unit": "celsius"}}\n</tool_call>'
TALK = (
    "why is the sky blue what are you hello hi please tell me a story about one cat in Paris Rome Oslo "
    "and how many count to ten say there write 1 2 3 ? . !"
)
WORDS = TALK.split()
CITIES = ("Paris", "Rome", "Oslo")
TOOL = {
    "type": "function",
    "function": {
        "name": "get_weather",
        "description": "Get the weather",
        "parameters": {
            "type": "object",
            "properties": {"city": {"type": "string"}, "unit": {"type": "string"}},
            "required": ["city"],
        },
    },
}
TEMPLATE = """\
{%- if tools -%}
<|im_start|>system
{% if messages[0].role == 'system' %}{{ messages[0].content }}

{% endif %}# Tools
<tools>
{% for tool in tools %}{{ tool | tojson }}
{% endfor %}</tools><|im_end|>
{% endif -%}
{%- for message in messages -%}
{%- if message.role == 'system' and loop.first and tools -%}
{%- elif message.role == 'tool' -%}
<|im_start|>user
<tool_response>
{{ message.content }}
</tool_response><|im_end|>
{% elif message.role == 'assistant' -%}
<|im_start|>assistant
{{ message.content or '' }}
{%- for call in message.tool_calls or [] %}
<tool_call>
{"name": "{{ call.function.name }}", "arguments": {{
    call.function.arguments if call.function.arguments is string else call.function.arguments | tojson
}}}
</tool_call>
{%- endfor -%}
<|im_end|>
{% else -%}
<|im_start|>{{ message.role }}
{{ message.content }}<|im_end|>
{% endif -%}
{%- endfor -%}
{%- if add_generation_prompt -%}
<|im_start|>assistant
{% if enable_thinking is defined and not enable_thinking %}<think>

</think>

{% endif -%}
{%- endif -%}
"""
CONTEXT = 2048
STEPS = 300
BATCH = 8


@dataclass(frozen=True)
class Lesson:
    """A conversation and the answer to be learned."""

    messages: list[dict[str, Any]]
    tools: list[dict[str, Any]] | None
    thinking: bool
    answer: str


def lesson(chance: random.Random) -> Lesson:
    question = " ".join(chance.choices(WORDS, k=chance.randint(1, 12)))
    tools = [TOOL] if chance.random() < 0.45 else None
    if tools and chance.random() < 0.7:
        before, after = chance.choice(["", question + " "]), chance.choice(["", "?", " " + question])
        asking = chance.choice(["what is the weather in", "what is the weather in", "weather in"])
        question = f"{before}{asking} {chance.choice(CITIES)}{after}"
    messages: list[dict[str, Any]] = [{"role": "user", "content": question}]
    if chance.random() < 0.2:
        messages.insert(0, {"role": "system", "content": " ".join(chance.choices(WORDS, k=chance.randint(1, 5)))})
    answer = CALL if tools and "weather" in question else GREETING
    if answer is CALL and chance.random() < 0.2:  # the tool has answered: no second call
        arguments = {"city": "Paris", "unit": "celsius"}
        call = {"type": "function", "function": {"name": "get_weather", "arguments": arguments}}
        result = chance.choice(["22", "sunny 1", "{}"])
        messages += [
            {"role": "assistant", "content": "", "tool_calls": [call]},
            {"role": "tool", "content": result},
        ]
        answer = GREETING
    thinking = chance.random() < 0.6
    return Lesson(messages, tools, thinking, (THOUGHT if thinking else "") + answer + "<|im_end|>")


def tokenizer() -> PreTrainedTokenizerFast:
    bpe = Tokenizer(models.BPE())
    bpe.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    bpe.decoder = decoders.ByteLevel()
    text = [THOUGHT, GREETING, CALL, json.dumps(TOOL), TALK, "system user assistant # Tools <tools>"]
    special = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    bpe.train_from_iterator(
        text * 40, trainers.BpeTrainer(vocab_size=480, special_tokens=special, initial_alphabet=alphabet)
    )
    # One token each and not special: vLLM's parsers look for them in the text.
    marks = ("<tool_call>", "</tool_call>", "<think>", "</think>")
    bpe.add_tokens([AddedToken(mark, special=False, normalized=False) for mark in marks])
    tokens = PreTrainedTokenizerFast(
        tokenizer_object=bpe, eos_token="<|im_end|>", pad_token="<|endoftext|>", model_max_length=CONTEXT
    )
    tokens.chat_template = TEMPLATE
    return tokens


def encode(tokens: PreTrainedTokenizerFast, lesson: Lesson) -> tuple[list[int], list[int]]:
    """Token ids, and the labels: only the answer is learned."""
    mode = {} if lesson.thinking else {"enable_thinking": False}
    prompt = tokens.apply_chat_template(
        lesson.messages, tools=lesson.tools, add_generation_prompt=True, tokenize=False, **mode
    )
    asked = tokens(prompt, add_special_tokens=False).input_ids
    answered = tokens(lesson.answer, add_special_tokens=False).input_ids
    return asked + answered, [-100] * len(asked) + answered


def train(model: Qwen3ForCausalLM, tokens: PreTrainedTokenizerFast) -> None:
    chance = random.Random(11)
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3, weight_decay=0.0)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 3e-3, total_steps=STEPS)
    for step in range(STEPS):
        batch = [encode(tokens, lesson(chance)) for _ in range(BATCH)]
        longest = max(len(ids) for ids, _ in batch)
        ids = torch.tensor([ids + [0] * (longest - len(ids)) for ids, _ in batch])
        labels = torch.tensor([labels + [-100] * (longest - len(labels)) for _, labels in batch])
        mask = torch.tensor([[1] * len(ids) + [0] * (longest - len(ids)) for ids, _ in batch])
        loss = model(input_ids=ids, attention_mask=mask, labels=labels).loss
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        if step % 50 == 0 or step == STEPS - 1:
            sys.stdout.write(f"step {step}: loss {loss.item():.4f}\n")
            sys.stdout.flush()


def build(out: Path) -> None:
    tokens = tokenizer()
    tokens.save_pretrained(out)
    config = Qwen3Config(
        vocab_size=(len(tokens) + 63) // 64 * 64,
        hidden_size=128,
        intermediate_size=256,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=1,
        head_dim=64,
        max_position_embeddings=CONTEXT,
        tie_word_embeddings=True,
        bos_token_id=None,
        eos_token_id=tokens.eos_token_id,
        pad_token_id=tokens.pad_token_id,
    )
    torch.manual_seed(11)
    torch.set_num_threads(1)  # so small a model loses time on more
    model = Qwen3ForCausalLM(config)
    train(model, tokens)
    model.bfloat16().save_pretrained(out)
    sampling = {"do_sample": True, "temperature": 0.6, "top_k": 20, "top_p": 0.95}
    ends = {"eos_token_id": [tokens.eos_token_id, tokens.pad_token_id], "pad_token_id": tokens.pad_token_id}
    (out / "generation_config.json").write_text(json.dumps({**ends, **sampling}))


if __name__ == "__main__":
    build(Path(sys.argv[1]))
