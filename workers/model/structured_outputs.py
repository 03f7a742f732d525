"""Default flags for vLLM's structured outputs.

By default vLLM allows unlimited white space in JSON, which weak models write up to the token limit. Ollama bounds it.
"""

from __future__ import annotations

import json
import re

from vllama_pool.workers.model.facts import ModelFacts
from vllama_pool.workers.vllm.flags import Flags

CONFIG = "--structured-outputs-config"
COMPACT = json.dumps({"backend": "guidance", "disable_any_whitespace": True}, separators=(",", ":"))
"""guidance supports more JSON schema keywords than xgrammar, the default."""

_OTHER_TOKENIZERS = re.compile(r"mi(ni)?[sx]tral|codestral|devstral|pixtral|magistral", re.IGNORECASE)
"""guidance does not support the older mistral-common tokenizers."""


def structured_output_flags(facts: ModelFacts, given: Flags) -> tuple[str, ...]:
    """Return the flags to add, () if the user has set them."""
    decided = given.begins(CONFIG) or given.has("--config")
    if decided or facts.is_embedding or facts.mistral_tokenizer or _OTHER_TOKENIZERS.search(facts.name):
        return ()
    return (CONFIG, COMPACT)
