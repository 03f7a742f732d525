"""Entry point of a router process.

Imports make hundreds of thousands of objects and no garbage: looking for it takes a tenth of the start.
"""

from __future__ import annotations

import gc


def main() -> None:
    gc.disable()  # until the server has started
    from vllama_pool.router.process import main as serve

    serve()


if __name__ == "__main__":
    main()
