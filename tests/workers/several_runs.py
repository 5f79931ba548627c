"""Run by each rank: train once per argument `CONFIG [OVERRIDE ...]`, all in one process group."""

import sys

from ldarnet.config import load_config
from ldarnet.pretraining.run import train_on
from ldarnet.runtime import distributed

world = distributed.start(2)
for argument in sys.argv[1:]:
    config_file, *overrides = argument.split()
    train_on(world, load_config(config_file, overrides))
distributed.stop()
