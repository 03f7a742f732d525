"""The program `vllama`.

Loading it takes a while. Until a command has handlers of its own Ctrl-C ends it by the signal alone, without a
traceback: nothing has been started by then.
"""

from __future__ import annotations

import signal


def main() -> None:
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:  # else it is ignored, as under nohup
        signal.signal(signal.SIGINT, signal.SIG_DFL)
    from vllama_pool.router.cli import main as cli

    cli.main(prog_name="vllama")


if __name__ == "__main__":
    main()
