"""Count kernels, bytes, FLOPs and host synchronizations of steps on CUDA tensors without data. Needs no GPU."""
