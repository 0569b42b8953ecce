"""Real servers that PyPI brings, started on one machine for the demonstration and the tests."""
