"""The command line: `vllama serve | worker | ps | check | compat | key`."""
