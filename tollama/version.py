"""The one place the version is written; the wheel and every hello read it here."""

__version__ = "0.1.0"
