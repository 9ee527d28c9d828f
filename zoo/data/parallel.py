"""Draws a data set in several processes, for the drawing modules keep one processor busy each.

Reading pictures is work of Pillow's C code: there threads do as well, without starting processes
and sending pictures between them.

The processes are spawned, not forked: TensorFlow, which may be loaded here, does not survive a
fork. They import the drawing module, and neither TensorFlow nor the user's script.
"""

import collections
import concurrent.futures
import contextlib
import importlib
import itertools
import logging
import multiprocessing
import os
import signal
import sys
import threading
import types
import warnings
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import numpy as np

_logger = logging.getLogger("zoo")
# One task: long enough to repay its way through a pipe, short enough to stop soon after Ctrl-C.
_PIXELS_PER_TASK = 1_600_000
_MAX_EXAMPLES_PER_TASK = 2048
# For each process: enough that none waits while the results before its own are taken.
_TASKS_AHEAD = 4


def split_up(indices: Sequence[int] | np.ndarray, image_size: int) -> list[np.ndarray]:
    """Tasks for our own data sets: example numbers [N] -> parts of them."""
    indices = np.asarray(indices, np.int64)
    step = max(1, min(_MAX_EXAMPLES_PER_TASK, _PIXELS_PER_TASK // max(1, image_size) ** 2))
    return [indices[start : start + step] for start in range(0, len(indices), step)]


def draw_in_parallel(
    module_name: str,
    tasks: Iterable[Any],
    *,
    processes: int | None = None,
    threads: bool = False,
    **options: Any,
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """What `draw(task, **options)` of a module returns for each task, drawn by several processes.

    Few tasks and results are held at a time, however many there are.

    Args:
      module_name: importable module that has such a `draw`, for which each task is independent.
      tasks: what to draw at a time; they are pickled.
      processes: how many; as many as it may use processors by default. 1, or too few tasks to
        share out, starts none.
      threads: in as many threads instead: for `draw` whose work Python's lock does not hold up.
        Warnings are off meanwhile.
      **options: further keyword arguments of `draw`; they are pickled, once a
        process.

    Yields:
      images [n, H, W, C] and labels [n] of each task, in order.

    Raises:
      whatever `draw` raises. If processes cannot be had, or die, this one draws by itself.
    """
    processes = processes or len(os.sched_getaffinity(0))
    tasks = iter(tasks)
    first = list(itertools.islice(tasks, 2 * processes))
    processes = min(processes, len(first) // 2)
    tasks = itertools.chain(first, tasks)
    waiting: collections.deque[Any] = collections.deque()
    if processes > 1 and threads:
        yield from _drawn_by_threads((module_name, options), tasks, processes)
    elif processes > 1:
        try:
            yield from _drawn_by_pool((module_name, options), tasks, processes, waiting)
        except (OSError, ImportError, concurrent.futures.BrokenExecutor) as error:
            _logger.warning("cannot draw in several processes (%s): drawing in one", error)
    for task in itertools.chain(waiting, tasks):
        yield _draw_task(module_name, options, task)


def _draw_task(
    module_name: str, options: dict[str, Any], task: Any
) -> tuple[np.ndarray, np.ndarray]:
    return importlib.import_module(module_name).draw(task, **options)


def _drawn_by_pool(
    job: tuple[str, dict[str, Any]],
    tasks: Iterator[Any],
    processes: int,
    waiting: collections.deque[Any],
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """The result of each task, in order; those in `waiting` are taken and not drawn yet."""
    context = multiprocessing.get_context("spawn")
    pool = concurrent.futures.ProcessPoolExecutor(processes, context, _start_worker, job)
    try:
        futures: collections.deque[concurrent.futures.Future] = collections.deque()
        while True:
            for task in itertools.islice(tasks, _TASKS_AHEAD * processes - len(futures)):
                waiting.append(task)
                with _interrupts_held_back(), _main_module_hidden():
                    futures.append(pool.submit(_draw_in_worker, task))
            if not futures:
                return
            drawn = futures.popleft().result()
            waiting.popleft()
            yield drawn
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


def _drawn_by_threads(
    job: tuple[str, dict[str, Any]], tasks: Iterator[Any], count: int
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """The result of each task, in order."""
    pool = concurrent.futures.ThreadPoolExecutor(count)
    futures: collections.deque[concurrent.futures.Future] = collections.deque()
    try:
        # The filters are of all threads: one that sets them must find them as it leaves them.
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            while True:
                for task in itertools.islice(tasks, _TASKS_AHEAD * count - len(futures)):
                    futures.append(pool.submit(_draw_task, *job, task))
                if not futures:
                    return
                yield futures.popleft().result()
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


_job: tuple[str, dict[str, Any]]  # of a worker, for all its tasks


def _start_worker(*job: Any) -> None:
    global _job
    _job = job
    _watch_parent()


def _draw_in_worker(task: Any) -> tuple[np.ndarray, np.ndarray]:
    return _draw_task(*_job, task)


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
