"""Writes modules whose import does harm: ``write(folder)`` makes one file each."""

import os
from pathlib import Path

ACTION = """
import os
import threading
from fsmv2.supervisor import Action, ActionContext

class Threads(Action, frozen=True):
    def execute(self, ctx: ActionContext) -> int:
        return threading.active_count()
"""

IMPORT_S_MAX = 3.0  # the others are imported within that on a busy machine, too
# Nobody else's: other runs of these tests may be at work on the machine.
SLEEP_S = f"1000.{os.getpid()}"
SOURCES = {
    "harm_raises": "raise ValueError('no such broker')\n",
    "harm_thread": ACTION
    + "threading.Thread(target=threading.Event().wait, daemon=True).start()\n",
    "harm_socket": "import socket\nheld = socket.create_server(('127.0.0.1', 0))\n",
    "harm_child": f"import subprocess\nchild = subprocess.Popen(['sleep', {SLEEP_S!r}])\n",
    "harm_handler": "import signal\nsignal.signal(signal.SIGUSR1, lambda *_: None)\n",
    "harm_exits": "import os\nos._exit(3)\n",
    "harm_crashes": "import ctypes\nprint('last words', flush=True)\nctypes.string_at(0)\n",
    "harm_hangs": "import threading\nthreading.Event().wait()\n",
    "harm_not": ACTION,
}
WORDS = {
    "harm_thread": "2 OS threads, 1 before",
    "harm_socket": "1 more open sockets",
    "harm_child": "1 more child processes",
    "harm_handler": "SIGUSR1",
    "harm_exits": "its import ended the process: exited:3",
    "harm_crashes": "its import ended the process: crashed:SIGSEGV",
    "harm_hangs": f"its import did not end within {IMPORT_S_MAX:g} s",
}


def write(folder: Path) -> None:
    """One file for each."""
    for name, source in SOURCES.items():
        (folder / f"{name}.py").write_text(source)
