"""The parts of `benchmarks/soak.py`: what is submitted, how it is accounted for, what may leak."""
