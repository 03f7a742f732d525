"""Rules of messages, limits and structured answers: R214 to R224."""

from __future__ import annotations

from vllama_pool.router.compat.rules.cross_endpoint import ERRORS, OPTIONS
from vllama_pool.router.compat.rules.endpoints import CHAT, GENERATE, LOADING
from vllama_pool.router.compat.rules.rule import Rule

CONTENT = (
    Rule(214, CHAT, "A last message of the assistant is continued"),
    Rule(215, CHAT, "Roles come in any order, and system messages at any place"),
    Rule(216, CHAT, "Keys of messages, tools and calls may be absent"),
    Rule(217, OPTIONS, "num_predict of 0 or less sets no limit"),
    Rule(218, GENERATE, "format ignores keywords that Ollama's grammar does not know"),
    Rule(219, GENERATE, "format closes objects with properties, unless additionalProperties opens them"),
    Rule(220, GENERATE, "format puts required properties first, both kinds in the schema's order"),
    Rule(
        221,
        GENERATE,
        "format limits integers without bounds to 16 digits",
        unobservable="no prompt makes a model write such a number",
    ),
    Rule(222, GENERATE, "format limits white space"),
    Rule(223, LOADING, "/api/ps is the same on every connection"),
    Rule(224, ERRORS, "Values of the wrong type are refused with the text of Go's decoder"),
)
