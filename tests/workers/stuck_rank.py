"""Run by each rank: training in which the last rank hangs or fails in step 4.

Arguments: fault, configuration file, overrides. Faults: `sleeps`, `blocks` (sleeps while holding the GIL), `fails`,
`fails-later` (fails while recording the step).
"""

import ctypes
import sys
import time

from ldarnet.config import load_config
from ldarnet.pretraining import loop, train_metrics
from ldarnet.pretraining.run import train_on
from ldarnet.runtime import distributed, watchdog

fault, config_file, *overrides = sys.argv[1:]
config = load_config(config_file, overrides)
world = distributed.start(config.training.timeout_minutes)
read, stage_metrics, steps = loop._next, train_metrics.stage_metrics, 0


def stuck_in_reading(*arguments):
    global steps
    steps += 1
    if fault != "fails-later" and steps == 4 and world.rank == world.size - 1:
        if fault == "sleeps":
            time.sleep(1000)
        if fault == "blocks":
            ctypes.PyDLL(None).sleep(1000)
        raise RuntimeError("broken")
    return read(*arguments)


def stuck_in_recording(*arguments):
    if fault == "fails-later" and steps == 4 and world.rank == world.size - 1:
        raise RuntimeError("broken")
    return stage_metrics(*arguments)


watchdog.ALARM_SECONDS = 2.0
loop._next = stuck_in_reading
train_metrics.stage_metrics = stuck_in_recording
train_on(world, config)
