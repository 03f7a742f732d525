"""Read the header of a safetensors file: 8 bytes (little-endian length), a JSON header, then the tensors.

The digest also samples the tensors, because fine-tunes of one model have equal headers and sizes.
"""

from __future__ import annotations

import hashlib
import struct
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from math import prod
from pathlib import Path

import msgspec

MAX_HEADER = 100 << 20
"""Limit of the format, in bytes."""
SAMPLES = 1024
"""Sampled tensors per file, at most."""
SAMPLE_BYTES = 256

BITS = {
    "F64": 64,
    "F32": 32,
    "F16": 16,
    "BF16": 16,
    "F8_E4M3": 8,
    "F8_E5M2": 8,
    "F8_E8M0": 8,
    "F4": 4,
    "I64": 64,
    "I32": 32,
    "I16": 16,
    "I8": 8,
    "U64": 64,
    "U32": 32,
    "U16": 16,
    "U8": 8,
    "BOOL": 8,
}


class MalformedHeader(ValueError):
    """Not a safetensors file, or truncated."""


class Tensor(msgspec.Struct, frozen=True):
    dtype: str
    shape: tuple[int, ...]
    data_offsets: tuple[int, int] = (0, 0)

    @property
    def elements(self) -> int:
        return prod(self.shape)


@dataclass(frozen=True, slots=True)
class Weights:
    tensors: Mapping[str, Tensor]
    size: int
    """Bytes of the file."""
    digest: str
    """SHA-256 in hex over size, header and samples."""


def read(path: Path) -> Weights:
    """Takes a few ms. Raises MalformedHeader, OSError."""
    size = path.stat().st_size
    with path.open("rb") as file:
        prefix = file.read(8)
        length = struct.unpack("<Q", prefix)[0] if len(prefix) == 8 else 0
        if not 2 <= length <= min(MAX_HEADER, size - 8):
            raise MalformedHeader(f"{path.name} is not a whole safetensors file")
        header = file.read(length)
        tensors = _decode(header, path.name)
        sha = hashlib.sha256(b"%d:%b" % (size, header))
        for offset in _sampled(tensors.values()):
            file.seek(min(max(0, 8 + length + offset), size))
            sha.update(file.read(SAMPLE_BYTES))
    return Weights(tensors, size, sha.hexdigest())


def count_parameters(tensors: Mapping[str, Tensor], bits: int = 0) -> int:
    """`bits`: per quantised weight, in packed tensors (0: unquantised). Scales and tables do not count."""
    return sum(_parameters(name, tensor, bits) for name, tensor in tensors.items())


def main_dtype(tensors: Mapping[str, Tensor]) -> str:
    """dtype of most elements, "" without tensors."""
    counts: Counter[str] = Counter()
    for tensor in tensors.values():
        counts[tensor.dtype] += tensor.elements
    return counts.most_common(1)[0][0] if counts else ""


_PACKED = ("qweight", "weight_packed")
_TABLES = (
    "scales",
    "qzeros",
    "g_idx",
    "weight_scale",
    "weight_scale_2",
    "weight_scale_inv",
    "weight_global_scale",
    "weight_zero_point",
    "weight_shape",
    "weight_g_idx",
    "input_scale",
    "input_global_scale",
    "output_scale",
    "k_scale",
    "v_scale",
    "absmax",
    "quant_map",
    "nested_absmax",
    "nested_quant_map",
)
_INTEGERS = ("I64", "I32", "I16", "U64", "U32", "U16", "BOOL")


def _parameters(name: str, tensor: Tensor, bits: int) -> int:
    last = name.rpartition(".")[2]
    if last in _TABLES or last.endswith("_scales") or ".quant_state." in name:
        return 0
    stored = BITS.get(tensor.dtype, 0)
    half_bytes = bits == 4 and tensor.dtype == "U8"  # two weights per byte: bitsandbytes, mxfp4, nvfp4
    if bits and (last in _PACKED or last.endswith("_blocks") or half_bytes):
        return tensor.elements * stored // bits
    return 0 if tensor.dtype in _INTEGERS else tensor.elements


def _decode(header: bytes, name: str) -> dict[str, Tensor]:
    try:
        entries = msgspec.json.decode(header, type=dict[str, msgspec.Raw])
        return {key: msgspec.json.decode(raw, type=Tensor) for key, raw in entries.items() if key != "__metadata__"}
    except msgspec.DecodeError as error:
        raise MalformedHeader(f"the header of {name} is broken: {error}") from error


def _sampled(tensors: Iterable[Tensor]) -> list[int]:
    starts = sorted(tensor.data_offsets[0] for tensor in tensors)
    step = max(1, len(starts) // SAMPLES)
    return starts[::step][:SAMPLES]
