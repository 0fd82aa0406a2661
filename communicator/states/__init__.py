"""The communicator's states, one module each: stopped -> authenticating -> syncing <-> degraded
-> flushing -> stopped.

`reading` is what they have in common: how a snapshot is read.
"""
