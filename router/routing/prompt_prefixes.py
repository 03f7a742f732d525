"""Hashes of a prompt's beginning, by which requests find the worker whose prefix cache holds it.

vLLM caches blocks of tokens, each under a hash of all tokens before it. Two prompts thus share the blocks of their
common beginning. A prompt is divided into its head (model, tools, system texts), which many conversations share, and
the messages or the text after it:

- `key` covers the head and the start of the first message, so that all turns of a conversation have the same, and
  conversations with the same system text have different ones.
- `prefixes` cover the head and a growing part of the rest: up to the ends of the last messages, where the next turn
  goes on, and up to the two last of fixed lengths, which prompts about the same long document share.

Prompts with large images are known by their key alone: hashing them would block the event loop.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple
from zlib import crc32

import msgspec

from vllama_pool.router.routing.large_prompts import LARGE, is_large, outline
from vllama_pool.router.routing.opening import SYSTEM_ROLES, VARYING

KEY_BYTES = 1024
"""Of the first message. Longer ones are mostly documents, which differ earlier."""
MIN_CUT = 256
"""Bytes: shorter beginnings are about as long as a block of vLLM's cache, and too common."""
MAX_ENDS = 8
"""Ends of messages. A turn adds two messages, or more with calls of tools."""
CUTS = 2
"""Fixed lengths. The two last ones cover at least 4/9 of the text: less in common is not worth a move."""

_encode = msgspec.json.encode
_encode_lines = msgspec.json.Encoder().encode_lines


class PromptPrefixes(NamedTuple):
    key: int = 0
    """0 for a request without a prompt."""
    prefixes: tuple[int, ...] = ()
    """Shortest first."""


NO_PREFIXES = PromptPrefixes()


def prompt_prefixes(request: Any, model: str) -> PromptPrefixes:
    """Return the hashes of a decoded request's prompt, which is found by the names of its fields.

    `model`: the same for all names of one model.
    """
    messages = getattr(request, "messages", None) or getattr(request, "conversation", None) or ()
    seed = crc32(_head(request, messages, model))
    if is_large(messages):
        return PromptPrefixes(_hash(crc32(_encode(outline(messages)), seed), 0))
    text = _encode_lines(_after_system(messages)) if messages else _plain_prompt(request)
    if not text:
        return NO_PREFIXES
    first = text.find(b"\n")
    start = text[: min(KEY_BYTES, first if first >= 0 else KEY_BYTES)]
    return PromptPrefixes(_hash(crc32(start, seed), len(start)), _prefixes(text, seed))


def _head(request: Any, messages: Sequence[Any], model: str) -> bytes:
    """Return what conversations have in common: one message a line comes after it."""
    system = getattr(request, "system", None)
    if not (isinstance(system, str) or system is None):
        system = _constant(system)
    leading = messages[: len(messages) - len(_after_system(messages))]
    return _encode([model, getattr(request, "tools", None), getattr(request, "template", None), system, leading])


def _after_system(messages: Sequence[Any]) -> Sequence[Any]:
    """Return the messages after the leading system messages; all of them if there are no others."""
    first = next((index for index, one in enumerate(messages) if one.role.lower() not in SYSTEM_ROLES), 0)
    return messages[first:] if first else messages


def _constant(blocks: Iterable[Any]) -> list[Any]:
    """Return the system texts without those that differ between requests of a conversation."""
    return [block for block in blocks if not getattr(block, "text", "").startswith(VARYING)]


def _plain_prompt(request: Any) -> bytes:
    """Return the prompt of a completion: a text, texts, or tokens, after the tokens of earlier turns."""
    prompt = getattr(request, "prompt", None)
    if not prompt or getattr(request, "file", None) is not None:  # of a transcription: not a prefix
        return b""
    context = getattr(request, "context", None)
    before = _encode(context)[:-1] if context else b""
    if isinstance(prompt, str):
        return before + prompt[:LARGE].encode("utf-8", "surrogatepass")
    return before + _encode(prompt)[:-1]


def _prefixes(text: bytes, seed: int) -> tuple[int, ...]:
    lengths = sorted({*_ends(text), *_cuts(len(text))})
    view, total, done = memoryview(text), seed, 0
    prefixes = []
    for length in lengths:
        total = crc32(view[done:length], total)
        done = length
        prefixes.append(_hash(total, length))
    return tuple(prefixes)


def _ends(text: bytes) -> Sequence[int]:
    """Return the lengths up to the ends of the last messages."""
    ends: list[int] = []
    end = len(text)
    while end > 0 and len(ends) < MAX_ENDS:
        ends.append(end)
        end = text.rfind(b"\n", 0, end - 1) + 1
    return ends


def _cuts(length: int) -> list[int]:
    """Return the last lengths of the series 256, 384, 512, 768, ... that the text has."""
    cuts: list[int] = []
    power = 1 << max(0, length.bit_length() - 1)
    for cut in (power * 3 // 2, power, power * 3 // 4):
        if MIN_CUT <= cut <= length and len(cuts) < CUTS:
            cuts.append(cut)
    return cuts


def _hash(checksum: int, length: int) -> int:
    """Return 64 bits, never 0. They choose among workers: collisions do no harm."""
    return checksum << 32 | (length & 0xFFFFFFFF) or 1
