"""The program `vllama`. Loading it takes half a second: Ctrl-C in that time ends it as quietly as later."""

from __future__ import annotations

import signal


def main() -> None:
    try:
        from router import cli
    except KeyboardInterrupt:
        signal.signal(signal.SIGINT, signal.SIG_DFL)
        signal.raise_signal(signal.SIGINT)
    else:
        cli.main(prog_name="vllama")


if __name__ == "__main__":
    main()
