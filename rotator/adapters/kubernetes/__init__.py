"""What rotator publishes, rolls and holds in a Kubernetes cluster."""
