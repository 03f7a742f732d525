"""The pipe between a child and its supervisor."""

from __future__ import annotations

import os

from vllama_pool.workers.process.status import STATUS_FD, ChildStatus, StatusPipe, decode


def test_what_is_told_is_read_as_it_was() -> None:
    reading, writing = os.pipe()
    pipe = StatusPipe(writing)
    status = ChildStatus("ready", "after a while", ("a", "b"))
    pipe.send(status)
    assert decode(os.read(reading, 4096)) == status
    os.close(reading)
    os.close(writing)


def test_the_same_status_is_told_once() -> None:
    reading, writing = os.pipe()
    pipe = StatusPipe(writing)
    for state in ("starting", "starting", "ready", "starting"):
        pipe.send(ChildStatus(state))
    lines = os.read(reading, 4096).splitlines()
    assert [status.state for status in map(decode, lines) if status] == ["starting", "ready", "starting"]
    os.close(reading)
    os.close(writing)


def test_a_supervisor_that_is_gone_or_stuck_is_no_error() -> None:
    reading, writing = os.pipe()
    pipe = StatusPipe(writing)
    for number in range(5000):  # more than a pipe holds
        pipe.send(ChildStatus("ready", str(number)))
    os.close(reading)
    pipe.send(ChildStatus("draining"))
    os.close(writing)


def test_without_a_supervisor_telling_does_nothing() -> None:
    pipe = StatusPipe.from_environment({})
    assert not pipe.connected
    pipe.send(ChildStatus("ready"))


def test_the_pipe_is_not_for_grandchildren() -> None:
    reading, writing = os.pipe()
    os.set_inheritable(writing, True)
    StatusPipe.from_environment({STATUS_FD: str(writing)})
    assert not os.get_inheritable(writing)
    os.close(reading)
    os.close(writing)


def test_other_lines_are_no_status() -> None:
    assert decode(b"Traceback (most recent call last):") is None
    assert decode(b'{"note": "no state"}') is None
