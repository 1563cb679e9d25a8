"""What the objects mean: linked, judged, free of Kubernetes. Pure."""
