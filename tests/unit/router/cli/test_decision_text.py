"""The text of `vllama explain --request`."""

from vllama_pool.router.cli.decision_text import decision_text
from vllama_pool.router.telemetry.decision_view import AttemptView, ComparedView, DecisionView, FallbackView

RETRIED = DecisionView(
    id="3f2a",
    time=1_700_000_000.0,
    operation="chat",
    requested="llama3.2:1b",
    model="llama3.2",
    served="meta-llama/Llama-3.2-1B-Instruct",
    worker="gpu-12",
    key="anna",
    identity="00000000000000ab",
    bytes=12345,
    prompt_tokens=87,
    completion_tokens=1200,
    queued_ms=2.25,
    first_ms=120.5,
    total_ms=2900.0,
    status=200,
    outcome="complete",
    attempts=(
        AttemptView("gpu-2", "Lost", 2, (ComparedView("gpu-2", 0.125), ComparedView("gpu-12", 9.0, True, 8))),
        AttemptView("gpu-12"),
    ),
    fallbacks=(FallbackView("overloaded", "llama3.2", 1),),
)


def test_a_retried_request() -> None:
    assert (
        decision_text(RETRIED)
        == """\
request 3f2a
  arrived    2023-11-14 22:13:20 UTC
  operation  chat
  asked for  llama3.2:1b
  model      llama3.2
  served by  meta-llama/Llama-3.2-1B-Instruct on gpu-12
  fallback   to llama3.2, because of overloaded, after 1 attempt
  key        anna
  identity   hash 00000000000000ab
  sizes      body of 12,345 bytes, 87 prompt tokens, 1,200 in the answer
  times      queue 2.2 ms, first content 120.5 ms, total 2,900.0 ms
  result     200 complete
  attempts
    1  gpu-2   failed: Lost  of 2: gpu-2 score 0.12 load 0, gpu-12 score 9.00 load 8 full
    2  gpu-12  complete"""
    )


def test_an_unknown_model_in_a_request_with_control_characters() -> None:
    unknown = DecisionView(
        id="a", time=0, operation="chat", requested="x\x1b[1m\ny", bytes=9, status=404, outcome="refused"
    )
    assert (
        decision_text(unknown)
        == """\
request a
  arrived    1970-01-01 00:00:00 UTC
  operation  chat
  asked for  x\\x1b[1m\\ny
  model      unknown
  sizes      body of 9 bytes
  times      queue 0.0 ms
  result     404 refused"""
    )
