"""The comparisons of ``tools/parity.py``, a module a kind of fixtures."""
