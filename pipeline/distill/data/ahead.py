"""A thread that reads ahead, within a fixed number of buffers."""

import atexit
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from queue import SimpleQueue
from typing import TypeVar

Task = TypeVar("Task")
Buffer = TypeVar("Buffer")


def read_ahead(
    tasks: Iterable[Task], buffers: Sequence[Buffer], fill: Callable[[Task, Buffer, threading.Event], None]
) -> Iterator[tuple[Task, Buffer]]:
    """Yields each task with a filled buffer; while it is used, a thread fills the other buffers for the next tasks.

    A buffer is the caller's until the next one is asked for. The thread ends with the last task, with an error, which
    is raised here, or when the iterator is closed or forgotten.

    Args:
        tasks: What to read, in order; drawn by the thread.
        buffers: Never more than these are in use.
        fill: Fills a buffer; may return early once the event it is given is set.
    """
    free, ready, stop = SimpleQueue(), SimpleQueue(), threading.Event()
    for buffer in buffers:
        free.put(buffer)

    def work() -> None:
        try:
            for task in tasks:
                buffer = free.get()
                if not stop.is_set():
                    fill(task, buffer, stop)
                if stop.is_set():
                    return
                ready.put((task, buffer))
            ready.put(None)
        except BaseException as error:
            ready.put(error)

    # A daemon, because Python waits for other threads before it lets us stop them.
    thread = threading.Thread(target=work, name="tkd-cache-reader", daemon=True)

    def end() -> None:
        stop.set()
        free.put(None)  # wakes the thread where it waits for a buffer
        if thread is not threading.current_thread():  # the garbage collector may close an iterator in any thread
            thread.join()

    atexit.register(end)  # where an iterator is left half used, before what the thread reads with is taken down
    thread.start()
    try:
        while (filled := ready.get()) is not None:
            if isinstance(filled, BaseException):
                raise filled
            yield filled
            free.put(filled[1])
    finally:
        atexit.unregister(end)
        end()
