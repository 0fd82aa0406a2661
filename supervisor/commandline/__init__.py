"""The command `fsmv2`."""
