"""Makers of small data sets in the real formats; each has `make(directory, seed)` and `NEXT`, the next command."""
