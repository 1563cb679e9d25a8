"""Benchmarks of the packet programs, and the packet generator they share."""
