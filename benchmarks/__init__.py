"""Speed and memory of the kernels beside plain PyTorch. Run by hand: `python -m benchmarks` (or `make bench`)."""
