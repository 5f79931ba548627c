"""`ldarnet doctor`."""

from __future__ import annotations

import json
from typing import Annotated

import typer

from ldarnet.console import busy


def doctor(as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False) -> None:
    """Report installed packages, devices and the kernel each op would use; suggest fixes."""
    from ldarnet.doctor import examine, render

    with busy("checking packages and kernels"):
        report = examine()
    print(json.dumps(report, indent=2) if as_json else render(report))
