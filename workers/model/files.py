"""Locate and read a model's files in a folder or huggingface_hub's cache, without that library."""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import msgspec

from vllama_pool.workers.model import safetensors
from vllama_pool.workers.model.safetensors import MalformedHeader, Weights

MAX_TEXT = 256 << 10
"""Bytes of a template, licence or README; larger files are ignored."""
MAX_JSON = 64 << 20
"""Bytes; a tokenizer's vocabulary has about 10 MB."""

_DESCRIBED = (
    "adapter_config.json",
    "added_tokens.json",
    "chat_template.jinja",
    "chat_template.json",
    "config.json",
    "generation_config.json",
    "merges.txt",
    "modules.json",
    "params.json",
    "special_tokens_map.json",
    "tekken.json",
    "tokenizer.json",
    "tokenizer.model",
    "tokenizer_config.json",
    "vocab.json",
    "vocab.txt",
)
"""Files that identify a model, besides its weights."""


@dataclass(frozen=True)
class ModelFiles:
    """A model's folders in search order."""

    folders: tuple[Path, ...]

    def find(self, name: str) -> Path | None:
        return next((folder / name for folder in self.folders if (folder / name).is_file()), None)

    def json(self, name: str) -> dict[str, Any]:
        """{} if missing or invalid."""
        try:
            return msgspec.json.decode(self._bytes(name, MAX_JSON), type=dict[str, Any])
        except msgspec.DecodeError:
            return {}

    def text(self, name: str) -> str:
        """ "" if missing, too long or unreadable."""
        return self._bytes(name, MAX_TEXT).decode("utf-8", "replace")

    def mentions(self, name: str, word: str) -> bool:
        return word.encode() in self._bytes(name, MAX_JSON)

    @cached_property
    def weight_files(self) -> tuple[Path, ...]:
        """In one format only: many repositories hold the same weights twice."""
        for folder in self.folders:
            for pattern in _WEIGHTS:
                if found := tuple(sorted(path for path in folder.glob(pattern) if path.is_file())):
                    return found
        return ()

    @cached_property
    def weights(self) -> tuple[Weights, ...]:
        """Headers of the safetensors files; () if one is malformed."""
        try:
            return tuple(safetensors.read(path) for path in self.weight_files if path.suffix == ".safetensors")
        except (MalformedHeader, OSError):
            return ()

    @property
    def size(self) -> int:
        """Bytes of weights."""
        return sum(path.stat().st_size for path in self.weight_files)

    @property
    def modified_at(self) -> float:
        """Unix seconds, 0.0 without files."""
        paths = [path for name in _DESCRIBED if (path := self.find(name))]
        return max((path.stat().st_mtime for path in (*paths, *self.weight_files)), default=0.0)

    def digest(self) -> str:
        """64 hex digits, independent of path and time; "" without weights."""
        if not self.weight_files:
            return ""
        sha = hashlib.sha256(b"vllama model 1\n")
        for name in _DESCRIBED:
            if content := self._bytes(name, MAX_JSON):
                sha.update(f"{name} {hashlib.sha256(content).hexdigest()}\n".encode())
        for number, path in enumerate(self.weight_files):
            header = self.weights[number].digest if self.weights else ""
            sha.update(f"{path.name} {path.stat().st_size} {header}\n".encode())
        return sha.hexdigest()

    def _bytes(self, name: str, limit: int) -> bytes:
        path = self.find(name)
        try:
            return b"" if path is None or path.stat().st_size > limit else path.read_bytes()
        except OSError:
            return b""


_WEIGHTS = (
    "model*.safetensors",
    "adapter_model.safetensors",
    "consolidated*.safetensors",
    "*.safetensors",
    "pytorch_model*.bin",
    "adapter_model.bin",
    "*.gguf",
)


def locate(
    model: str, env: Mapping[str, str], *, revision: str = "main", download_dir: str | None = None
) -> ModelFiles | None:
    """Return None if the files are not on this machine."""
    if Path(model).is_dir():
        return ModelFiles((Path(model),))
    if not is_repository(model):
        return None
    roots = [Path(download_dir)] if download_dir else []
    found = [
        snapshot for root in (*roots, hub_cache(env)) if (snapshot := _snapshot(root, model, revision)) is not None
    ]
    return ModelFiles(tuple(found)) if found else None


def is_repository(model: str) -> bool:
    """True for "name" or "organisation/name"."""
    return re.fullmatch(r"(?!.*(\.\.|--))[\w][\w.-]*(/[\w.-]+)?", model, re.ASCII) is not None


def hub_cache(env: Mapping[str, str]) -> Path:
    """huggingface_hub's cache folder, by its own variables."""
    if explicit := env.get("HF_HUB_CACHE") or env.get("HUGGINGFACE_HUB_CACHE"):
        return Path(explicit).expanduser()
    home = env.get("HF_HOME")
    if not home:
        home = os.path.join(env.get("XDG_CACHE_HOME") or os.path.join("~", ".cache"), "huggingface")
    return Path(home).expanduser() / "hub"


def _snapshot(root: Path, model: str, revision: str) -> Path | None:
    repository = root / ("models--" + model.replace("/", "--"))
    try:
        commit = (repository / "refs" / revision).read_text().strip()
    except OSError:
        commit = revision
    folder = repository / "snapshots" / commit
    return folder if folder.is_dir() else None
