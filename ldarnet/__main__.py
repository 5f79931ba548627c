"""Entry point of `python -m ldarnet`, which is the same as the `ldarnet` command."""

from ldarnet.cli import main

main()
