"""Entry point of a router process.

Imports make hundreds of thousands of objects and no garbage: looking for it takes a tenth of the start.
"""

from __future__ import annotations

import gc
import signal


def main() -> None:
    gc.disable()  # until the server has started
    signal.signal(signal.SIGHUP, signal.SIG_IGN)  # until it asks for a reload
    from vllama_pool.router.process import main as serve

    serve()


if __name__ == "__main__":
    main()
