"""The loop of a client under test, run by the client's own interpreter: one story a line in, one answer a line out.

    {"story": "chat", "at": {"url": "http://…", "model": "m", "embedder": "e"}, "with": {"question": "…"}}

is answered with {"result": …}, or with {"error": {"class": "…", "message": "…", "status": 404}} where the client
raised. The story "offers" is answered with the names of all stories that the client can tell.

What stories give, the same for every client:

    an answer   {"text": "…", "reason": "stop", "counts": [prompt tokens, answer tokens], "parts": 7}
                with null for what the client does not tell
    a call      {"name": "…", "arguments": {…}}
"""

from __future__ import annotations

import faulthandler
import json
import os
import sys
from collections.abc import Callable
from typing import Any

Answer = dict[str, Any]
SLOW = 10.0
"""Seconds after which the stack of a story that still goes on is written to the log."""


def answer(text: str, reason: str | None, counts: list[int] | None, parts: int | None = None) -> Answer:
    return {"text": text, "reason": reason, "counts": counts, "parts": parts}


def serve(client: Callable[..., Any]) -> None:
    """Tell stories until the input ends. `client` is a class: made with `at`, it has a method for every story."""
    out = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # some clients print advertisements
    made: dict[str, Any] = {}
    for line in sys.stdin:
        asked = json.loads(line)
        if asked["story"] == "offers":
            told: Any = {"result": sorted(name for name in vars(client) if not name.startswith("_"))}
        else:
            key = json.dumps(asked["at"])
            if key not in made:
                made[key] = client(**asked["at"])
            told = _tell(getattr(made[key], asked["story"]), asked["with"])
        out.write(json.dumps(told) + "\n")
        out.flush()


def _tell(story: Callable[..., Any], given: dict[str, Any]) -> dict[str, Any]:
    faulthandler.dump_traceback_later(SLOW)
    try:
        return {"result": story(**given)}
    except Exception as error:  # noqa: BLE001  whatever a client raises is what the test looks at
        status = getattr(error, "status_code", None)
        return {"error": {"class": type(error).__name__, "message": str(error), "status": status}}
    finally:
        faulthandler.cancel_dump_traceback_later()
