"""See ``contract``."""
