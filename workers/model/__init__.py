"""A model's files: metadata, chat template and matching parsers."""
