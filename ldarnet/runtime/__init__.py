"""Runtime for distributed programs: ranks, DeepSpeed engine, checkpoints, failure handling, tracking."""
