"""TensorFlow, imported without its start-up lines and set up the way the zoo computes."""

import contextlib
import logging
import os
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence

# Lines that TensorFlow's C++ code prints on every start and that ask nothing of the user.
_CHATTER = (
    "oneDNN custom operations are on",
    "before absl::InitializeLog()",
    "This TensorFlow binary is optimized",
    "To enable the following instructions",
    "Could not find cuda drivers",
    "Unable to register cu",
    "computation placer already registered",
)
# Said by the CUDA-capable build on machines that have no NVIDIA device; elsewhere a real error.
_NO_GPU_CHATTER = ("failed call to cuInit", "cuda_diagnostics")
_NVIDIA_DRIVER = "/proc/driver/nvidia"
# TensorFlow does these to the same step differently inside and outside of a loop, so that rounding
# differs: without them the zoo's loop and fit() agree bit for bit, at the same speed.
REWRITES = ("remapping", "arithmetic_optimization", "constant_folding")
_FILTER = """
import sys
for line in sys.stdin.buffer:
    if not any(text.encode() in line for text in sys.argv[1:]):
        sys.stderr.buffer.write(line)
        sys.stderr.flush()
"""

_logger = logging.getLogger("zoo")


def import_tensorflow(set_up: Callable | None = None, *, gpu: bool = True):
    """Imports TensorFlow and returns it; anything but the known chatter still reaches stderr.

    set_up: is called with it before its first operation, after which devices are settled; gpu:
    False leaves GPUs alone, for work whose rounding must be that of another process.
    """
    if not gpu:
        os.environ["CUDA_VISIBLE_DEVICES"] = "-1"
    # Its warnings come beside an exception that says the same, or ask nothing of the user.
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    os.environ.setdefault("KERAS_BACKEND", "tensorflow")
    # So that one can sample from a run while another is trained.
    os.environ.setdefault("TF_FORCE_GPU_ALLOW_GROWTH", "true")
    has_driver = os.path.exists(_NVIDIA_DRIVER)
    with _filtered(_CHATTER if gpu and has_driver else _CHATTER + _NO_GPU_CHATTER):
        import tensorflow as tf

        if set_up:
            set_up(tf)
        # These lines come with the first operation, not with the import.
        tf.constant(0)
    if gpu and has_driver and not tf.config.list_physical_devices("GPU"):
        _logger.warning(
            "this machine has an NVIDIA driver, but TensorFlow finds no GPU and computes on the "
            "CPU: pip install 'zoo-art[gpu]'"
        )
    tf.config.optimizer.set_experimental_options(dict.fromkeys(REWRITES, False))
    return tf


@contextlib.contextmanager
def _filtered(chatter: Sequence[str]) -> Iterator[None]:
    """Drops the lines written to file descriptor 2 that hold one of these texts.

    Another process filters them: it also passes on the last words of this one, if it aborts.
    """
    sys.stderr.flush()
    saved = os.dup(2)
    with subprocess.Popen(
        [sys.executable, "-I", "-S", "-c", _FILTER, *chatter],
        stdin=subprocess.PIPE,
        start_new_session=True,  # Ctrl-C is not for it
    ) as process:
        assert process.stdin is not None
        os.dup2(process.stdin.fileno(), 2)
        try:
            yield
        finally:
            sys.stderr.flush()
            os.dup2(saved, 2)
            os.close(saved)
