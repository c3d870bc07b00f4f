"""Benchmarks: every system on the same vectors, in one run, by commands that anyone can repeat."""
