"""A simulated worker: vLLM's HTTP server without a model or a GPU, for load and fault tests.

It identifies itself in its Server header, its version, its start-up line and every answer.

A request passes through wire, server, routes, requests, inference, job, runner and engine; its answer through
generation and chunks (streamed) or documents.
"""

from vllama_pool.workers.simulated.options import Options
from vllama_pool.workers.simulated.server import Simulated

__all__ = ["Options", "Simulated"]
