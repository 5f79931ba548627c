"""Check and measure LDARNet on one GPU: correctness of kernels and training, speed, and comparison with the estimate.

`plan.py` lists the checks. `session.py` runs each of them in a worker process and saves its result. `page.py` renders
the results. The modules that run checks are imported only in the worker process, so that a missing package makes only
the checks that need it impossible.
"""
