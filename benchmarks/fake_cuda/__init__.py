"""Training steps on CUDA tensors without data, which count kernels, bytes, FLOPs and host waits without a GPU."""
