"""TensorFlow, imported without its start-up lines and set up the way the zoo computes."""

import contextlib
import os
import sys
import tempfile
from collections.abc import Iterator

# Lines that TensorFlow's C++ code prints on every start and that ask nothing of the user.
_CHATTER = (
    b"oneDNN custom operations are on",
    b"before absl::InitializeLog()",
    b"This TensorFlow binary is optimized",
    b"To enable the following instructions",
    b"Could not find cuda drivers",
    b"Unable to register cu",
    b"computation placer already registered",
)
# Said by the CUDA-capable build on machines that have no NVIDIA device; elsewhere a real error.
_NO_GPU_CHATTER = (b"failed call to cuInit", b"cuda_diagnostics")


def import_tensorflow():
    """Imports TensorFlow and returns it; anything but the known chatter still reaches stderr."""
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "1")
    os.environ.setdefault("KERAS_BACKEND", "tensorflow")
    with _quiet():
        import tensorflow as tf

        # These lines come with the first operation, not with the import.
        tf.constant(0)
    # Both rewrite the same step differently inside and outside of a loop: without them the zoo's
    # loop and fit() agree bit for bit, at the same speed.
    tf.config.optimizer.set_experimental_options(
        {"remapping": False, "arithmetic_optimization": False}
    )
    return tf


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Holds back what is written to file descriptor 2, then passes on all but the chatter."""
    sys.stderr.flush()
    saved = os.dup(2)
    with tempfile.TemporaryFile() as held:
        os.dup2(held.fileno(), 2)
        try:
            yield
        finally:
            sys.stderr.flush()
            os.dup2(saved, 2)
            os.close(saved)
            held.seek(0)
            known = _CHATTER
            if not os.path.exists("/proc/driver/nvidia"):
                known += _NO_GPU_CHATTER
            for line in held:
                if not any(text in line for text in known):
                    os.write(2, line)
