"""The loop of a client program, run by the client's own interpreter: one request a line in, one response a line out.

    {"scenario": "chat", "at": {"url": "http://…", "model": "m", "embedder": "e"}, "with": {"question": "…"}}

is answered with {"result": …}, or, if the client raised, with {"error": {"class": "…", "message": "…", "status": 404,
"code": …}}, where status and code are null if the error has none.
The result of "scenarios" is the list of the client's scenarios. Other results have the same shape for every client:

    an answer   {"text": "…", "reason": "stop", "counts": [prompt tokens, answer tokens], "parts": 7}
                with null for values that the client does not report
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
"""Seconds after which the stack of a running scenario is written to the log."""


def answer(text: str, reason: str | None, counts: list[int] | None, parts: int | None = None) -> Answer:
    return {"text": text, "reason": reason, "counts": counts, "parts": parts}


def serve(client: Callable[..., Any]) -> None:
    """Run scenarios until the input ends. `client` is a class with a method per scenario; `at` are its arguments."""
    out = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # some clients print advertisements
    clients: dict[str, Any] = {}
    for line in sys.stdin:
        request = json.loads(line)
        if request["scenario"] == "scenarios":
            response: Any = {"result": sorted(name for name in vars(client) if not name.startswith("_"))}
        else:
            key = json.dumps(request["at"])
            if key not in clients:
                clients[key] = client(**request["at"])
            response = _run(getattr(clients[key], request["scenario"]), request["with"])
        out.write(json.dumps(response) + "\n")
        out.flush()


def _run(scenario: Callable[..., Any], arguments: dict[str, Any]) -> dict[str, Any]:
    faulthandler.dump_traceback_later(SLOW)
    try:
        return {"result": scenario(**arguments)}
    except Exception as error:  # noqa: BLE001  the test checks the error, whatever its class
        status, code = getattr(error, "status_code", None), getattr(error, "code", None)
        return {"error": {"class": type(error).__name__, "message": str(error), "status": status, "code": code}}
    finally:
        faulthandler.cancel_dump_traceback_later()
