"""Run by one rank: trains with short windows, then as configured; prints the increase of peak memory."""

import resource
import sys

from ldarnet.config import load_config
from ldarnet.pretraining.run import train_on
from ldarnet.runtime import distributed


def peak_bytes() -> int:
    return 1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


world = distributed.start(5)
train_on(world, load_config(sys.argv[1], ["data.length=1024", "data.curriculum=[]", "run.dir=" + sys.argv[2]]))
before = peak_bytes()
train_on(world, load_config(sys.argv[1]))
print("bytes added:", peak_bytes() - before)
distributed.stop()
