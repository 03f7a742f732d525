from __future__ import annotations

import os

from vllama_pool.workers.process.status import STATUS_FD, ChildStatus, StatusPipe, decode


def test_a_status_is_decoded_as_it_was_sent() -> None:
    reading, writing = os.pipe()
    pipe = StatusPipe(writing)
    status = ChildStatus("ready", "after a while", ("a", "b"))
    pipe.send(status)
    assert decode(os.read(reading, 4096)) == status
    os.close(reading)
    os.close(writing)


def test_a_repeated_status_is_sent_once() -> None:
    reading, writing = os.pipe()
    pipe = StatusPipe(writing)
    for state in ("starting", "starting", "ready", "starting"):
        pipe.send(ChildStatus(state))
    lines = os.read(reading, 4096).splitlines()
    assert [status.state for status in map(decode, lines) if status] == ["starting", "ready", "starting"]
    os.close(reading)
    os.close(writing)


def test_a_full_or_closed_pipe_is_ignored() -> None:
    reading, writing = os.pipe()
    pipe = StatusPipe(writing)
    for number in range(5000):  # more than a pipe holds
        pipe.send(ChildStatus("ready", str(number)))
    os.close(reading)
    pipe.send(ChildStatus("draining"))
    os.close(writing)


def test_without_a_pipe_send_does_nothing() -> None:
    pipe = StatusPipe.from_environment({})
    assert not pipe.connected
    pipe.send(ChildStatus("ready"))


def test_the_pipe_is_not_inherited_by_grandchildren() -> None:
    reading, writing = os.pipe()
    os.set_inheritable(writing, True)
    StatusPipe.from_environment({STATUS_FD: str(writing)})
    assert not os.get_inheritable(writing)
    os.close(reading)
    os.close(writing)


def test_other_lines_are_not_decoded() -> None:
    assert decode(b"Traceback (most recent call last):") is None
    assert decode(b'{"note": "no state"}') is None
