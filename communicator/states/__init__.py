"""The communicator's states, one module each: stopped -> authenticating -> syncing <-> degraded.

`reading` is what they have in common: how a snapshot is read.
"""
