"""Benchmarks: `python -m bench.GROUP.NAME [--quick]` prints JSON lines, the last one a summary.

They compare in one run and report ratios; README.md beside this file says how to read them.
Nothing in edge/ imports from here.
"""
