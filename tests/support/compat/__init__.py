"""Servers for the checks of `vllama compat`."""
