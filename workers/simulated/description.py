"""Model metadata of a simulated worker, for the agent."""

from __future__ import annotations

from collections.abc import Mapping

import msgspec

from vllama_pool.workers.model.describe import Observed
from vllama_pool.workers.model.describe import describe as describe_files
from vllama_pool.workers.registry.record import ModelInfo
from vllama_pool.workers.simulated import vocabulary
from vllama_pool.workers.simulated.options import Options
from vllama_pool.workers.vllm.flags import Flags

ARCHITECTURE = "simulated"
BYTES_PER_PARAMETER = 4


def describe(model: str, flags: Flags, seen: Observed, env: Mapping[str, str]) -> tuple[ModelInfo, ...]:
    """Describe the models. A model without files is as large as its embedding table."""
    dimensions = flags.number("--dimensions") or Options().dimensions
    parameters = vocabulary.SIZE * dimensions
    return tuple(
        info
        if info.architecture
        else msgspec.structs.replace(
            info,
            capabilities=(*info.capabilities, *(("audio",) if flags.on("--transcription") else ())),
            architecture=ARCHITECTURE,
            parameter_count=parameters,
            size=parameters * BYTES_PER_PARAMETER,
            quantization="F32",
            embedding_length=dimensions,
        )
        for info in describe_files(model, flags, seen, env)
    )
