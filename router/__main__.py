"""Entry point of the command `vllama`.

Imports take a while. Until a command installs its own handler, Ctrl-C ends the process without a traceback.
"""

from __future__ import annotations

import signal


def main() -> None:
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:  # nohup ignores SIGINT, which must stay so
        signal.signal(signal.SIGINT, signal.SIG_DFL)
    from vllama_pool.router.cli import main as cli

    cli.main(prog_name="vllama")


if __name__ == "__main__":
    main()
