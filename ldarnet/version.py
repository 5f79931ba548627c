"""The version of LDARNet, defined only here."""

__version__ = "0.2.0"
