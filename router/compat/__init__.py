"""`vllama compat`: asks a server what a client of Ollama would notice, and says where it differs from Ollama.

`rules` is the project's one list of the contract's rules; `checks` asks about those that can be seen from outside.
It knows nothing of our router: any server is looked at in the same way.
"""
