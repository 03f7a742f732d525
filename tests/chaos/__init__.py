"""The fault matrix: routers, agents, registry and workers as processes, faults, and a load that checks every answer."""
