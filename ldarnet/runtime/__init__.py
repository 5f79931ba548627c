"""What every distributed program needs: ranks, DeepSpeed engine, checkpoints, failure handling, tracking."""

from ldarnet.runtime.signals import STOPPED_STATUS
from ldarnet.runtime.watchdog import FAILED_STATUS

__all__ = ["FAILED_STATUS", "STOPPED_STATUS"]
