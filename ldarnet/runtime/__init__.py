"""Runtime of distributed programs: ranks, DeepSpeed engine, checkpoints, failure handling, tracking."""
