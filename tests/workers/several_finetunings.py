"""Run by each rank: fine-tune once per argument `CONFIG [OVERRIDE ...]`, all in one process group."""

import sys

from ldarnet.config import FinetuneConfig, load_config
from ldarnet.finetuning.run import finetune_on
from ldarnet.runtime import distributed

world = distributed.start(2)
for argument in sys.argv[1:]:
    config_file, *overrides = argument.split()
    assert finetune_on(world, load_config(config_file, overrides, schema=FinetuneConfig)).finished
distributed.stop()
