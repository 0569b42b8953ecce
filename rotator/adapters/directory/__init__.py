"""Certificates published in a directory, switched by one symlink: `DirectoryStore`."""

from rotator.adapters.directory.store import Access, DirectoryStore

__all__ = ["Access", "DirectoryStore"]
