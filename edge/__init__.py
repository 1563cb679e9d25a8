"""xdp-edge's control plane: decides everything, touches no packet. The way of a change: CONTRIBUTING.md."""
