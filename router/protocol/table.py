"""The endpoints that a worker answers."""

from __future__ import annotations

from typing import Any

from vllama_pool.router.protocol import json_lines
from vllama_pool.router.protocol.ollama import chat, embed, generate, requests
from vllama_pool.router.protocol.ollama.embed_response import EmbedTranslator
from vllama_pool.router.protocol.ollama.not_found import embedding_text, generation_text
from vllama_pool.router.protocol.operation import Clock, Operation


def operations(clock: Clock) -> tuple[Operation[Any], ...]:
    """`clock` dates responses that need no worker."""
    return (
        Operation(
            name="chat",
            path="/api/chat",
            decode=requests.decode_chat,
            check=lambda request, info: chat.check(request, info, clock),
            prepare=lambda request, info, defaults: chat.prepare(request, info, defaults, clock),
            adapt=lambda request, info, defaults, *refusals: chat.adapt(request, info, defaults, clock, *refusals),
            translator=chat.translator,
            not_found=generation_text,
            content_type=lambda request: json_lines.content_type(request.stream),
        ),
        Operation(
            name="generate",
            path="/api/generate",
            decode=requests.decode_generate,
            check=lambda request, info: generate.check(request, info, clock),
            prepare=lambda request, info, defaults: generate.prepare(request, info, defaults, clock),
            adapt=lambda request, info, defaults, *refusals: generate.adapt(request, info, defaults, clock, *refusals),
            translator=generate.translator,
            not_found=generation_text,
            content_type=lambda request: json_lines.content_type(request.stream),
        ),
        *(
            Operation(
                name=name,
                path=f"/api/{name}",
                decode=decode,
                check=embed.check,
                prepare=embed.prepare,
                adapt=embed.adapt,
                translator=EmbedTranslator,
                not_found=embedding_text,
                content_type=lambda request: json_lines.JSON,
            )
            for name, decode in (("embed", embed.decode_embed), ("embeddings", embed.decode_embeddings))
        ),
    )
