"""The parts of benchmarks/tree.py."""
