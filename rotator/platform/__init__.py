"""
The platform around the rotation: who is who in the mesh, who may call what, and what Kuma and Airflow are told of it.

Rules that must stay true here:

- Pure: configuration in, documents and sentences out. Nothing here reaches a control plane, a file or a clock.
- Everything rendered follows from `rotator.platform.model.Platform` alone: twice the same gives the same bytes.
"""
