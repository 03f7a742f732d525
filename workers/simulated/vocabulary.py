"""A reversible tokenizer. Token ids:

0 … 255         bytes
256 … 262       special tokens
512 … 1023      known words, most with a leading space
1024 … 66559    pairs of bytes, so that a character can span tokens
"""

from __future__ import annotations

import codecs
import re
from collections.abc import Iterable, Sequence


def _spaced(words: str) -> tuple[str, ...]:
    return tuple(f" {word}" for word in words.split())


SPECIALS = ("<|im_start|>", "<|im_end|>", "<think>", "</think>", "<tool_call>", "</tool_call>")
IM_START, IM_END, THINK, END_THINK, TOOL_CALL, END_TOOL_CALL = range(256, 262)
MARK = 262
"""First token of a plain answer, which `encode` never returns."""
MARK_TEXT = "Simulated"
EOS = IM_END

NUMBERS = _spaced("one two three four five six seven eight nine ten")
WORDS = (
    *NUMBERS,
    *_spaced("answer to I count and the a is are you what of in it why how who hi hello"),
    *_spaced("The user asked something I repeat his her their words with weather Paris"),
    *("system", "user", "assistant", "tool", "Hello", "hello", "Hi", "hi", "What", "Why", "How", "Tell", "The"),
    *(". ", ", ", "? ", ": ", "! ", ".\n", ":\n", "\n\n", '{"', '": ', '": "', '", "', '"}', '"}\n'),
)
_WORD_BASE = 512
_PAIR_BASE = 1024
SIZE = _PAIR_BASE + 65536

LONGEST = max(len(text) for text in (*SPECIALS, *WORDS, MARK_TEXT))

_WORD_IDS = {word: _WORD_BASE + index for index, word in reversed(list(enumerate(WORDS)))}
_WORD_BYTES = tuple(word.encode() for word in WORDS)
_SPECIAL_IDS = {text: IM_START + index for index, text in enumerate(SPECIALS)}
_SPLIT = re.compile("(" + "|".join(map(re.escape, SPECIALS)) + ")")
_PUNCTUATION = sorted((word for word in WORDS if not word[-1].isalpha()), key=len, reverse=True)
_PIECES = re.compile("|".join(map(re.escape, _PUNCTUATION)) + r"| ?[A-Za-z]+|[^A-Za-z \n{\"]+|[\s\S]")


def encode(text: str) -> list[int]:
    """Recognises the text of special tokens."""
    ids: list[int] = []
    for part in _SPLIT.split(text):
        special = _SPECIAL_IDS.get(part)
        if special is not None:
            ids.append(special)
            continue
        for piece in _PIECES.findall(part):
            word = _WORD_IDS.get(piece)
            if word is not None:
                ids.append(word)
            else:
                _encode_bytes(piece.encode("utf-8", "replace"), ids)
    return ids


def is_known(token: int) -> bool:
    try:
        token_bytes(token)
    except ValueError:
        return False
    return True


def token_bytes(token: int) -> bytes:
    """Raises ValueError for an unknown id."""
    if token >= _PAIR_BASE:
        if token < SIZE:
            return bytes(divmod(token - _PAIR_BASE, 256))
    elif 0 <= token < 256:
        return bytes((token,))
    elif IM_START <= token < MARK:
        return SPECIALS[token - IM_START].encode()
    elif token == MARK:
        return MARK_TEXT.encode()
    elif _WORD_BASE <= token < _WORD_BASE + len(WORDS):
        return _WORD_BYTES[token - _WORD_BASE]
    raise ValueError(f"Token id {token} is out of vocabulary")


def decode(tokens: Iterable[int]) -> str:
    """Decode with U+FFFD for invalid UTF-8. Raises ValueError for an unknown id."""
    return b"".join(map(token_bytes, tokens)).decode("utf-8", "replace")


def texts(tokens: Sequence[int]) -> list[str]:
    """Return each token's text. A split character belongs to its last token."""
    decoder = codecs.getincrementaldecoder("utf-8")("replace")
    last = len(tokens) - 1
    return [decoder.decode(token_bytes(token), final=index == last) for index, token in enumerate(tokens)]


def _encode_bytes(data: bytes, ids: list[int]) -> None:
    even = len(data) & ~1
    for index in range(0, even, 2):
        ids.append(_PAIR_BASE + (data[index] << 8) + data[index + 1])
    if even < len(data):
        ids.append(data[even])
