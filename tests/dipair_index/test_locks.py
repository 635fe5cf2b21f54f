"""A fork waits for the threads that compute."""

from __future__ import annotations

import subprocess
import sys

# in a process of its own: pytest's own threads and locks are not to be forked
PROGRAM = """
import os, threading
from dipair_index.locks import ForkGate

gate = ForkGate()
entered, may_leave, left = threading.Event(), threading.Event(), threading.Event()

def compute():
    with gate:
        entered.set()
        may_leave.wait()
        left.set()

thread = threading.Thread(target=compute)
thread.start()
entered.wait()
threading.Timer(0.2, may_leave.set).start()
child = os.fork()
if not child:
    with gate:
        os._exit(0 if left.is_set() else 3)
assert left.is_set(), "the fork did not wait for the thread"
assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
thread.join()
with gate, open(os.devnull):
    pass
"""


def test_a_fork_waits_until_no_thread_is_inside_and_leaves_the_gate_open() -> None:
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM], capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 0, done.stderr[-2000:]
