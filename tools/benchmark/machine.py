"""The limits of the machine, measured beside every run, and what it consists of."""

from __future__ import annotations

import os
import platform
import statistics
import time
from pathlib import Path

import torch


def describe(folder: Path, threads: int, quick: bool) -> dict:
    elements, disk_bytes = (2**20, 2**20) if quick else (2**27, 2**28)
    return {
        "CPU": _cpu_model(),
        "cores": os.cpu_count(),
        "threads": threads,
        "memory": f"{_memory_bytes() / 1e9:.0f} GB",
        "memory read bandwidth": f"{_memory_gb_per_second(elements):.1f} GB/s",
        "disk write with fsync": f"{_disk_mb_per_second(folder, disk_bytes):.0f} MB/s",
        "load before the run": f"{os.getloadavg()[0]:.2f}",
        "system": platform.platform(),
        "Python": platform.python_version(),
        "torch": torch.__version__,
    }


def _cpu_model() -> str:
    try:
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    except OSError:
        pass
    return platform.machine()


def _memory_bytes() -> int:
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


def _memory_gb_per_second(elements: int) -> float:
    """A sum of 64-bit integers with the threads of the run: reading is all that it waits for."""
    data = torch.ones(elements, dtype=torch.int64)
    rates = []
    for _ in range(6):
        start = time.perf_counter()
        data.sum()
        rates.append(data.nbytes / (time.perf_counter() - start) / 1e9)
    return statistics.median(rates[1:])


def _disk_mb_per_second(folder: Path, size: int) -> float:
    path = folder / "disk.tmp"
    chunk = os.urandom(2**20)
    try:
        start = time.perf_counter()
        with open(path, "wb") as file:
            for _ in range(size // len(chunk)):
                file.write(chunk)
            file.flush()
            os.fsync(file.fileno())
        return size / (time.perf_counter() - start) / 1e6
    finally:
        path.unlink(missing_ok=True)
