"""Journal and ledger in one database."""
