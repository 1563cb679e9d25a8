"""Micro benchmarks: one C function, in nanoseconds and in instructions."""
