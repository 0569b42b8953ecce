"""Kuma meshes: a CA moved on a running control plane, whichever of the two models it speaks."""
