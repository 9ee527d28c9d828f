"""Draws a data set in several processes, for the drawing modules keep one processor busy each.

The processes are spawned, not forked: TensorFlow, which may be loaded here, does not survive a
fork. They import the drawing module, and neither TensorFlow nor the user's script.
"""

import concurrent.futures
import contextlib
import importlib
import logging
import multiprocessing
import os
import signal
import sys
import threading
import types
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np

_logger = logging.getLogger("zoo")
# One task: long enough to repay its way through a pipe, short enough to stop soon after Ctrl-C.
_PIXELS_PER_TASK = 1_600_000
_MAX_EXAMPLES_PER_TASK = 2048


def draw_in_parallel(
    module_name: str,
    indices: Sequence[int] | np.ndarray,
    *,
    image_size: int,
    processes: int | None = None,
    examples_per_task: int | None = None,
    on_progress: Callable[[int, int], None] | None = None,
    **options: Any,
) -> tuple[np.ndarray, np.ndarray]:
    """What `draw(indices, image_size=image_size, **options)` of a module returns, drawn by several.

    Args:
      module_name: importable module that has such a `draw`, for which each example is independent.
      indices: N example numbers.
      image_size: height and width.
      processes: how many; as many as there are processors by default. 1, or too few examples to
        share out, starts none.
      examples_per_task: how many to draw at a time; as many as suit our own data sets by default.
      on_progress: called in this thread with (number of examples done, N), often.
      **options: further keyword arguments of `draw`; they are pickled, once a
        process.

    Returns:
      images [N, H, W, C] and labels [N], in the order of indices.

    Raises:
      whatever `draw` raises. If processes cannot be had, or die, this one draws by itself.
    """
    indices = np.asarray(indices, np.int64)
    total = len(indices)
    step = examples_per_task or max(
        1, min(_MAX_EXAMPLES_PER_TASK, _PIXELS_PER_TASK // max(1, image_size) ** 2)
    )
    tasks = [indices[start : start + step] for start in range(0, total, step)]
    processes = min(processes or os.cpu_count() or 1, len(tasks) // 2)
    job = (module_name, {"image_size": image_size, **options})

    def report(done: int) -> None:
        if on_progress is not None:
            on_progress(min(done * step, total), total)

    drawn: list[tuple[np.ndarray, np.ndarray]] = []
    if processes > 1:
        try:
            for part in _drawn_by_pool(job, tasks, processes):
                drawn.append(part)
                report(len(drawn))
        except (OSError, ImportError, concurrent.futures.BrokenExecutor) as error:
            _logger.warning("cannot draw in several processes (%s): drawing in one", error)
    for task in tasks[len(drawn) :]:
        drawn.append(_draw_task(*job, task))
        report(len(drawn))
    if not drawn:
        return _draw_task(*job, indices)
    images, labels = zip(*drawn, strict=True)
    return np.concatenate(images), np.concatenate(labels)


def _draw_task(
    module_name: str, options: dict[str, Any], indices: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    return importlib.import_module(module_name).draw(indices, **options)


def _drawn_by_pool(
    job: tuple[str, dict[str, Any]], tasks: Sequence[np.ndarray], processes: int
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """The result of each task, in order."""
    context = multiprocessing.get_context("spawn")
    pool = concurrent.futures.ProcessPoolExecutor(processes, context, _start_worker, job)
    try:
        with _interrupts_held_back(), _main_module_hidden():
            futures = [pool.submit(_draw_in_worker, task) for task in tasks]
        for future in futures:
            yield future.result()
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


_job: tuple[str, dict[str, Any]]  # of a worker, for all its tasks


def _start_worker(*job: Any) -> None:
    global _job
    _job = job
    _watch_parent()


def _draw_in_worker(indices: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    return _draw_task(*_job, indices)


def _watch_parent() -> None:
    """Ends this worker when its parent ends, however it does: a pool's workers would wait on."""
    parent = multiprocessing.parent_process()

    def watch() -> None:
        parent.join()  # type: ignore[union-attr]  # a worker has one
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


@contextlib.contextmanager
def _interrupts_held_back() -> Iterator[None]:
    """Processes started meanwhile never see Ctrl-C: it is for the parent, which then ends them."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


@contextlib.contextmanager
def _main_module_hidden() -> Iterator[None]:
    """Processes started meanwhile do not import the user's script again, with all that it does.

    A spawned process does that to find functions of `__main__`; ours are elsewhere.
    """
    main = sys.modules["__main__"]
    sys.modules["__main__"] = types.ModuleType("__main__")
    try:
        yield
    finally:
        sys.modules["__main__"] = main
