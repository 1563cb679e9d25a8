"""Packet programs: compiled by bcc in a child, loaded over maps of our own, published in two generations.

`XdpPlane` and `detach` (plane.py) are what the controller and the command line call.
"""
