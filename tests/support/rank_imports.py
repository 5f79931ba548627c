"""What every rank imports: loaded once by the server that ranks are forked from."""

from ldarnet.runtime.distributed import load_deepspeed

load_deepspeed()
