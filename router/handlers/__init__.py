"""Thin Litestar handlers: decode, call, respond."""
