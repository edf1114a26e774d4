"""Whole trainings beside each other, each in a process of its own: what `python -m benchmarks trl_training` runs."""
