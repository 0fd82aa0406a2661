"""Readings of the machine: where they are read, by whom, how often."""
