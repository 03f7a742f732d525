"""Everything that runs beside a GPU: agent, registry record, model files, and the simulated worker."""
