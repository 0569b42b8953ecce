"""Certificates and tokens published in a directory, switched by one symlink."""

from rotator.adapters.directory.store import Access, DirectoryStore
from rotator.adapters.directory.token import TokenDirectory

__all__ = ["Access", "DirectoryStore", "TokenDirectory"]
