"""zoo: TensorFlow/Keras models for AI art under one command, `python -m zoo.train`."""

__version__ = "0.1.0"
