"""`python -m vllama_pool`: the command `vllama`."""

from vllama_pool.router.__main__ import main

if __name__ == "__main__":
    main()
