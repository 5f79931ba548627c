"""Adapters for third-party GPU kernels: one module per package, registered on import.

To add one, put a module in this folder with a function decorated with :func:`ldarnet.ops.registry.register` that takes
the same arguments as the reference. Import the package inside the function: most kernel packages cannot be imported
without a GPU.

None of these adapters has been run on a GPU yet. ``auto`` verifies each one on the available GPU before using it, and
``pytest tests/ops/test_external.py`` on a GPU machine compares all of them with their references. On a CPU, the scan of
mamba-ssm matches its reference under Triton's interpreter.
"""

from ldarnet.plugins import load_folder

load_folder(__name__)
