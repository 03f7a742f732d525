"""A model's files: metadata, chat template, and the parsers that they call for."""
