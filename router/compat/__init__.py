"""`vllama compat`: compares a server's answers with Ollama's, rule by rule.

`rules` lists all rules of Ollama's API. `checks` tests those that a client can observe. Nothing here depends on our
router: every server is checked in the same way.
"""
