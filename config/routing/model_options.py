"""Sampling defaults of a model in the routing file."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from vllama_pool.config.routing.schema_types import Count, Fraction, NonNegative, Penalty, Section, Seed

REMOVED_OPTIONS = frozenset(
    {
        "mirostat",
        "mirostat_eta",
        "mirostat_tau",
        "tfs_z",
        "penalize_newline",
        "numa",
        "low_vram",
        "f16_kv",
        "logits_all",
        "vocab_only",
        "use_mlock",
    }
)
"""Options that Ollama once had and now ignores (R143)."""


class ModelOptions(Section):
    """Defaults for a model's sampling, under Ollama's names, as a Modelfile's PARAMETER (R126-R142).

    A request's own options win. Those without a counterpart in vLLM are accepted and have no effect.
    """

    num_predict: Count | None = Field(None, description="Longest answer in tokens; negative: no limit.")
    temperature: NonNegative | None = Field(None, description="0 is deterministic; Ollama's default is 0.8.")
    top_k: Count | None = Field(None, description="Choose among so many tokens; 0 or less: all.")
    top_p: Fraction | None = Field(None, description="Choose among the likeliest tokens of so much probability.")
    min_p: Fraction | None = Field(
        None, description="Choose among tokens of at least so much of the likeliest one's probability."
    )
    typical_p: Fraction | None = Field(None, description="No counterpart in vLLM: no effect.")
    repeat_penalty: Annotated[float, Field(gt=0, le=100)] | None = Field(None, description="1.0 is off.")
    repeat_last_n: Count | None = Field(None, description="0 turns repeat_penalty off.")
    presence_penalty: Penalty | None = Field(None, description="Against tokens that the text has already.")
    frequency_penalty: Penalty | None = Field(None, description="The same, by their number so far.")
    seed: Seed | None = Field(None, description="Negative: random.")
    stop: Annotated[tuple[str, ...], Field(strict=False, max_length=64)] | None = Field(
        None, description="Texts that end the answer."
    )
    num_ctx: Count | None = Field(None, description="Truncation budget; vLLM's own window is fixed.")
    num_keep: Count | None = Field(None, description="No counterpart in vLLM: no effect.")
    num_batch: Count | None = Field(None, description="No counterpart in vLLM: no effect.")
    num_gpu: Count | None = Field(None, description="No counterpart in vLLM: no effect.")
    main_gpu: Count | None = Field(None, description="No counterpart in vLLM: no effect.")
    num_thread: Count | None = Field(None, description="No counterpart in vLLM: no effect.")
    use_mmap: bool | None = Field(None, description="No counterpart in vLLM: no effect.")
    draft_num_predict: Count | None = Field(None, description="No counterpart in vLLM: no effect.")
