"""A simulated worker: vLLM's HTTP server without a model or a GPU.

Request: http_server, server, routes, requests, jobs, inference, generation_task, engine_loop, engine.
Response: generation, then streams or collector, with a format per route: chat, completions, messages, responses.
"""

from vllama_pool.workers.simulated.options import Options
from vllama_pool.workers.simulated.server import Simulated

__all__ = ["Options", "Simulated"]
