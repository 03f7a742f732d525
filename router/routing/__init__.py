"""From a model name to the workers that may answer it."""
