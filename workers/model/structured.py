"""How vLLM holds answers to a schema, where the user has not decided about it.

By itself vLLM allows any amount of white space between the parts of a JSON text, and weak models then write blanks
until their answer is cut off for length. Ollama's own grammar bounds it, so its users do not know such answers.
"""

from __future__ import annotations

import json
import re

from vllama_pool.workers.model.chat_template import Speech
from vllama_pool.workers.vllm.flags import Flags

CONFIG = "--structured-outputs-config"
COMPACT = json.dumps({"backend": "guidance", "disable_any_whitespace": True}, separators=(",", ":"))
"""A backend must be named, and vLLM's first choice, xgrammar, knows fewer keywords of JSON schema than this one."""

_OTHER_TOKENIZERS = re.compile(r"mi(ni)?[sx]tral|codestral|devstral|pixtral|magistral", re.IGNORECASE)
"""guidance does not take the older ones of mistral-common."""


def flags_for(speech: Speech, given: Flags) -> tuple[str, ...]:
    """What to add to vLLM's command line."""
    decided = given.begins(CONFIG) or given.has("--config")
    if decided or speech.embeds or speech.mistral or _OTHER_TOKENIZERS.search(speech.name):
        return ()
    return (CONFIG, COMPACT)
