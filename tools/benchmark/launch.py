"""Wall time and peak memory of a command."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

# A process that is started from a large one counts the large one's memory as its own
# peak until it is replaced, so a small one starts and measures the command.
_LAUNCHER = """
import json, os, sys, time
quiet = [(os.POSIX_SPAWN_OPEN, 1, os.devnull, os.O_WRONLY, 0)]
start = time.perf_counter()
pid = os.posix_spawn(sys.argv[1], sys.argv[1:], os.environ, file_actions=quiet)
_, status, usage = os.wait4(pid, 0)
seconds = time.perf_counter() - start
print(json.dumps([os.waitstatus_to_exitcode(status), seconds, usage.ru_maxrss * 1024]))
"""


@dataclass(frozen=True)
class Measured:
    """One run of a command."""

    seconds: float
    peak_bytes: int


def launch(
    command: list[str], environment: dict, folder: Path | None = None
) -> tuple[int, Measured, str]:
    """Runs a command whose output nobody reads: exit status, what it took, its errors.

    Raises subprocess.CalledProcessError when it cannot be started.
    """
    launcher = [sys.executable, "-I", "-S", "-c", _LAUNCHER, *command]
    done = subprocess.run(launcher, env=environment, cwd=folder, capture_output=True, text=True)
    done.check_returncode()
    status, seconds, peak_bytes = json.loads(done.stdout)
    return status, Measured(seconds, peak_bytes), done.stderr
