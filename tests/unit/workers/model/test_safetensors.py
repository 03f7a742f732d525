"""Headers of safetensors files: counts, types, digests, malformed files."""

from __future__ import annotations

import struct
from pathlib import Path

import pytest

from tests.support.vllm.model_folder import write_safetensors
from vllama_pool.workers.model.safetensors import MalformedHeader, Tensor, count_parameters, main_dtype, read


def test_a_safetensors_header_is_read(tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    write_safetensors(path, {"a.weight": ("BF16", (3, 5)), "b.weight": ("F32", (2,))})
    weights = read(path)
    assert weights.size == path.stat().st_size
    assert count_parameters(weights.tensors) == 17
    assert main_dtype(weights.tensors) == "BF16"
    assert len(weights.digest) == 64


def test_a_digest_covers_weights_but_not_name_and_times(tmp_path: Path) -> None:
    shape = {"a.weight": ("BF16", (64, 64)), "b.weight": ("BF16", (64,))}
    one, copy, tuned = (tmp_path / name for name in ("one", "copy", "tuned"))
    write_safetensors(one, shape)
    write_safetensors(copy, shape)
    write_safetensors(tuned, shape, fill=2)
    assert read(one).digest == read(copy).digest
    assert read(one).digest != read(tuned).digest


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"short",
        struct.pack("<Q", 1 << 62) + b"{}",
        struct.pack("<Q", 20) + b"{}",
        struct.pack("<Q", 2) + b"[]",
        struct.pack("<Q", 13) + b'{"a": "shape"}',
    ],
    ids=["empty", "short", "huge", "cut", "array", "no tensor"],
)
def test_a_malformed_safetensors_file_is_an_error(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "model.safetensors"
    path.write_bytes(content)
    with pytest.raises(MalformedHeader):
        read(path)


def test_packed_weights_count_by_their_bits() -> None:
    awq = {
        "q_proj.qweight": Tensor("I32", (64, 8)),  # 64 x 64 weights, 8 in a word
        "q_proj.qzeros": Tensor("I32", (1, 8)),
        "q_proj.scales": Tensor("F16", (1, 64)),
        "norm.weight": Tensor("F16", (64,)),
    }
    assert count_parameters(awq, 4) == 64 * 64 + 64
    mxfp4 = {
        "experts.down_proj_blocks": Tensor("U8", (4, 32, 16)),
        "experts.down_proj_scales": Tensor("U8", (4, 32)),
    }
    assert count_parameters(mxfp4, 4) == 4 * 32 * 32
    bnb = {"q.weight": Tensor("U8", (32, 1)), "q.weight.absmax": Tensor("U8", (1,))}
    assert count_parameters(bnb, 4) == 64


def test_eight_bit_weights_count_and_index_tables_do_not() -> None:
    tensors = {
        "q.weight": Tensor("F8_E4M3", (16, 16)),
        "q.weight_scale": Tensor("F32", (16,)),
        "embeddings.position_ids": Tensor("I64", (1, 512)),
    }
    assert count_parameters(tensors, 8) == 256


def test_without_tensors_there_are_no_parameters_and_no_dtype() -> None:
    assert main_dtype({}) == ""
    assert count_parameters({}) == 0
