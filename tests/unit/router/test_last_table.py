"""The live table that router processes hand on."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from vllama_pool.config.routing.table import RoutingTable, load
from vllama_pool.router.last_table import LAST_TABLE_FD, LastTable, make_memory


@pytest.fixture
def memory() -> Iterator[int]:
    descriptor = make_memory()
    assert descriptor is not None
    yield descriptor
    os.close(descriptor)


def loaded(folder: Path, text: str) -> RoutingTable:
    (folder / "routing.yaml").write_text(text)
    return load(folder / "routing.yaml")


def test_a_table_is_read_as_it_was_kept_with_its_places_and_revision(memory: int, tmp_path: Path) -> None:
    table = loaded(tmp_path, "models: {a: {serve: x, aliases: [b]}}\nworkers: [{url: 'http://10.0.0.1:8000'}]\n")
    LastTable(memory).keep(table)
    kept = LastTable.from_environment({LAST_TABLE_FD: str(memory)}).read()
    assert kept == table
    assert (kept.revision, kept.files, kept.patterns) == (table.revision, table.files, table.patterns)
    assert dict(kept.places) == dict(table.places) != {}


def test_a_later_and_shorter_table_replaces_an_earlier_one(memory: int, tmp_path: Path) -> None:
    last = LastTable(memory)
    last.keep(loaded(tmp_path, "models:\n" + "".join(f"  m{number}: {{serve: x}}\n" for number in range(100))))
    second = loaded(tmp_path, "models: {a: {serve: y}}\n")
    last.keep(second)
    assert last.read() == second


def test_a_half_written_table_is_no_table(memory: int, tmp_path: Path) -> None:
    last = LastTable(memory)
    assert last.read() is None
    last.keep(loaded(tmp_path, "models: {a: {serve: y}}\n"))
    os.ftruncate(memory, os.fstat(memory).st_size - 1)
    assert last.read() is None
    os.ftruncate(memory, 10)
    assert last.read() is None


def test_without_memory_nothing_is_kept(tmp_path: Path) -> None:
    last = LastTable.from_environment({})
    last.keep(loaded(tmp_path, "models: {a: {serve: y}}\n"))
    assert last.read() is None
