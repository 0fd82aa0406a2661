"""The parts of `benchmarks/kill.py`: the shapes of a hang, and what is said of their kills."""
