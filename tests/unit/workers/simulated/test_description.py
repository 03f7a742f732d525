"""The description of a simulated worker's model."""

from __future__ import annotations

from pathlib import Path

from tests.support.vllm.model_folder import write_model
from vllama_pool.workers.model.describe import Observed
from vllama_pool.workers.registry.record import ModelInfo
from vllama_pool.workers.simulated.description import describe
from vllama_pool.workers.vllm.flags import Flags
from vllama_pool.workers.vllm.probe import ServedModel

SEEN = Observed((ServedModel("m", "m", "", 8192), ServedModel("second", "m", "", 8192)))


def described(model: str, *flags: str) -> ModelInfo:
    (info,) = describe(model, Flags(flags), SEEN, {})
    return info


def test_a_model_without_files_is_described_as_what_it_is() -> None:
    info = described("m")
    assert (info.names, info.context_length, info.capabilities) == (("m", "second"), 8192, ("completion",))
    assert (info.architecture, info.quantization, info.embedding_length) == ("simulated", "F32", 64)
    assert info.parameter_count % 64 == 0
    assert info.size == 4 * info.parameter_count > 0


def test_a_model_with_longer_vectors_is_larger() -> None:
    wide = described("m", "--dimensions", "128")
    assert (wide.embedding_length, wide.parameter_count) == (128, 2 * described("m").parameter_count)


def test_model_files_override_the_description(tmp_path: Path) -> None:
    info = described(str(write_model(tmp_path / "m")))
    assert (info.architecture, info.embedding_length, info.parameter_count) == ("llama", 64, 2112)
