"""The end of a chunked body, however it is split, and refusal of lines that end with a lone LF."""

import pytest

from vllama_pool.router.server.chunk_scanner import MAX_LINE, ChunkScanner, InvalidChunk

BODY = b"3\r\nabc\r\nA;x=1\r\n0123456789\r\n0\r\nX: y\r\n\r\n"


@pytest.mark.parametrize("step", [1, 2, 3, 7, 100])
def test_the_end_is_found_however_the_body_is_split(step: int) -> None:
    scanner, data = ChunkScanner(), BODY + b"GET"
    used = 0
    for start in range(0, len(data), step):
        part = data[start : start + step]
        if not scanner.done:
            used += scanner.scan(part, 0)
    assert scanner.done
    assert used == len(BODY)


@pytest.mark.parametrize(
    "body",
    [
        b"3\nabc\r\n",
        b"3;x\nabc\r\n",
        b'3;x="\n"\r\nabc',
        b"3\r\r\n",
        b"3 \r\nabc",
        b" 3\r\nabc",
        b"-3\r\nabc",
        b"+3\r\nabc",
        b"0x3\r\nabc",
        b"\r\n",
        b"3,3\r\n",
        b"f" * 16 + b"\r\n",
        b"0" * 16 + b"3\r\n",
        b"0\r\nX: y\n\r\n",
        b"0\r\n\n",
        b"0;" + b"x" * MAX_LINE,
        b"0\r\n" + b"X: y\r\n" * 20_000,
    ],
)
def test_an_ambiguous_chunk_line_is_refused(body: bytes) -> None:
    with pytest.raises(InvalidChunk):
        ChunkScanner().scan(body, 0)
