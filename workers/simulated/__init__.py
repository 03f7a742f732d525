"""A simulated worker: answers as vLLM's HTTP server does, with no model and no GPU behind it.

For load tests, fault tests, and trying a routing file. It says what it is: in its Server header, its version
("…+simulated"), its start-up line, `GET /simulated`, and the text of every answer.

    options.py      how a simulated worker is set up; its command line
    server.py       Simulated: listens, owns the one timer that steps the engine, and acts out faults
    engine.py       pure: slots, first in first out behind them, one token per running sequence and step
    generation.py   pure: one sequence; where it ends (length, end of text, stop string)
    answers.py      pure: what is answered, as a function of the prompt's tokens
    vocabulary.py   pure: a reversible tokenizer
    requests.py     pure: request bodies, checked as vLLM checks them
    context.py      pure: prompts that are too long
    errors.py       pure: vLLM's error answers
    chunks.py       pure: streamed answers;  documents.py  pure: whole ones
    inference.py    requests to generations;  routes.py  everything else;  embedding.py  vectors
    metrics.py      the /metrics page
    script.py       pure: the faults, and which request they hit
    wire.py         HTTP/1.1 on asyncio and httptools
"""

from vllama_pool.workers.simulated.options import Options
from vllama_pool.workers.simulated.server import Simulated

__all__ = ["Options", "Simulated"]
