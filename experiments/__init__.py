"""Experiments: flagfiles of training runs (*.flags), the benchmark command, the log of findings."""
