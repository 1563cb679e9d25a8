"""Whole processes over loopback: our data plane beside its peers and the copy-loop floor.

Each module here is run as `python -m bench.proxy.NAME`. Peers' configurations stand in peers/.
"""
