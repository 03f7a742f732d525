"""`make chaos`: run the fault matrix, and print its table.

python -m tests.chaos                    # the small matrix
python -m tests.chaos --full F3 F13      # two rows in full size
python -m tests.chaos --leavings 10000   # clients that leave at random moments
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TextIO

import uvloop

from tests.chaos import leaks, soak
from tests.chaos.matrix import chosen, matrix
from tests.chaos.report import details, dump, load, markdown, summary, table
from tests.chaos.row import Finding, Row, Stage


def main() -> int:
    parser = argparse.ArgumentParser(prog="make chaos", description="Run the fault matrix on a fleet of processes.")
    parser.add_argument("rows", nargs="*", metavar="ROW", help="such as F3; all by default")
    parser.add_argument("--full", action="store_true", help="the full sizes and durations")
    parser.add_argument("--patience", type=float, default=1.0, help="multiplies the bounds of time")
    parser.add_argument("--markdown", type=Path, metavar="FILE", help="write the table between the file's markers")
    parser.add_argument("--findings", type=Path, metavar="FILE", help="add to earlier findings, of other rows")
    parser.add_argument("--logs", type=Path, metavar="FOLDER", help="keep the logs of all processes here")
    parser.add_argument("--soak", type=_seconds, metavar="TIME", help="70 %% load with kills instead, such as 20m")
    parser.add_argument("--leavings", type=int, metavar="N", help="let so many clients leave instead, such as 10000")
    parser.add_argument("--picture", type=Path, metavar="FILE", help="of the soak, as SVG")
    args = parser.parse_args()
    if args.soak:
        return soak_for(args.soak, args.picture, args.logs)
    if args.leavings:
        return let_leave(args.leavings)
    try:
        rows = chosen(args.rows, full=args.full)
    except KeyError as unknown:
        parser.error(f"no such row: {unknown.args[0]}")
    with tempfile.TemporaryDirectory(prefix="chaos-") as temporary:
        folder = args.logs or Path(temporary)
        findings = uvloop.run(run(rows, folder, full=args.full, patience=args.patience))
    if args.findings:
        with args.findings.open("a") as file:
            file.writelines(map(dump, findings))
        findings = load(args.findings.read_text(), matrix().all())
    findings = sorted(findings, key=lambda finding: finding.row.number)
    _say(table(findings))
    _say(details(findings))
    _say(summary(findings))
    if args.markdown:
        write_table(args.markdown, markdown(findings, full=args.full, patience=args.patience))
    return 0 if all(finding.passed or finding.skipped for finding in findings) else 1


def soak_for(seconds: float, picture: Path | None, logs: Path | None) -> int:
    with tempfile.TemporaryDirectory(prefix="chaos-") as temporary:
        found = uvloop.run(soak.run(logs or Path(temporary), seconds))
    _say(found.text())
    for problem in found.problems():
        _say(problem)
    if picture:
        picture.write_text(found.picture())
    return 1 if found.problems() else 0


def let_leave(clients: int) -> int:
    with tempfile.TemporaryDirectory(prefix="chaos-") as temporary:
        found = uvloop.run(leaks.run(Path(temporary), clients))
    _say(found.text())
    for problem in found.problems():
        _say(problem)
    return 1 if found.problems() else 0


def _seconds(text: str) -> float:
    number, unit = (text[:-1], text[-1]) if text[-1:] in "smh" else (text, "s")
    return float(number) * {"s": 1, "m": 60, "h": 3600}[unit]


async def run(rows: Sequence[Row], folder: Path, *, full: bool, patience: float) -> list[Finding]:
    stage = Stage(folder, full=full, patience=patience)
    findings = []
    try:
        for row in rows:
            start = time.monotonic()
            finding = await stage.run(row)
            findings.append(finding)
            took = f"{finding.seconds:.1f} s, {time.monotonic() - start - finding.seconds:.1f} s to prepare"
            _say(
                f"{row.name:<4} {'pass' if finding.passed else 'skipped' if finding.skipped else 'FAIL'}  ({took})",
                sys.stderr,
            )
    finally:
        await stage.close()
    return findings


BEGIN, END = "<!-- chaos: begin -->", "<!-- chaos: end -->"


def write_table(file: Path, text: str) -> None:
    """Replace what is between the markers. Raises ValueError if the file has none."""
    before, begin, rest = file.read_text().partition(BEGIN)
    _, end, after = rest.partition(END)
    if not begin or not end:
        raise ValueError(f"{file} has no markers {BEGIN} and {END}; write them where the table belongs")
    file.write_text(f"{before}{BEGIN}\n\n{text}\n{END}{after}")


def _say(text: str, stream: TextIO | None = None) -> None:
    if text:
        print(text, file=stream or sys.stdout, flush=True)


if __name__ == "__main__":
    sys.exit(main())
