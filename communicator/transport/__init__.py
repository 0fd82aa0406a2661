"""How a relay is spoken to. `http` is the only module that loads an HTTP client; import it
inside an action.
"""
