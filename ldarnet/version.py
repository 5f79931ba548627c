"""The version of LDARNet, defined only here."""

__version__ = "0.1.0"
