"""What every distributed program needs: ranks, DeepSpeed engine, checkpoints, failure handling, tracking."""
