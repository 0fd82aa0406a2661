"""Test doubles for users: see the names exported here."""
