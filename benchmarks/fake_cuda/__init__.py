"""Run training steps on CUDA tensors without data, and count kernels, bytes, FLOPs and host waits. Needs no GPU."""
