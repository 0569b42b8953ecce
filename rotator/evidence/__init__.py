"""Records, the log made of them, and every check of it."""
