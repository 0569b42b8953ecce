"""The main job on embedded parts: what `rotator demo` starts, drives, watches and reports."""
