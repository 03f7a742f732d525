"""The options that commands share, and one module per command."""
