"""Everything that runs beside a GPU: the worker agent, and the registry record that it publishes."""
