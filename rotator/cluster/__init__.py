"""How rotator speaks to a Kubernetes API server."""
