"""Test doubles that ship: `fsmv2.communicator.testing.relay` stands in for the relay.

Nothing is imported here, so that ``python -m fsmv2.communicator.testing.relay`` runs clean.
"""
