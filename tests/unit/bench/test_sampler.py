from __future__ import annotations

import dis
import sys
from types import CodeType, FrameType

from tests.bench.sampler.sitecustomize import LOOP, callee, in_loop, place


class Transport:
    def write(self, data: bytes) -> None: ...


def send(transport: Transport, data: bytes) -> int:
    transport.write(data)
    return len(data) + 1


def calls(code: CodeType) -> list[int]:
    return [each.offset for each in dis.get_instructions(code) if each.opname == "CALL"]


def test_the_function_of_a_call_is_named() -> None:
    code = send.__code__
    assert [callee(code, offset) for offset in calls(code)] == ["write", "len"]
    assert [callee(code, each.offset) for each in dis.get_instructions(code) if each.opname == "BINARY_OP"] == [""]


def test_a_sample_is_placed_in_its_function_and_what_it_calls() -> None:
    code = send.__code__
    assert place(code, calls(code)[0]) == (__file__, "send", "write")
    assert place(None, 0) == (LOOP, "", "")


def test_a_running_function_is_not_the_event_loop() -> None:
    frame: FrameType = sys._getframe()
    assert not in_loop(frame)
