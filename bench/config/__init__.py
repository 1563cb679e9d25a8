"""Benchmarks of the way from an object to the first request that is answered by it."""
