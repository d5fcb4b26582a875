"""Describes this machine: what a latency depends on besides the model and the engine."""

from __future__ import annotations

import hashlib
import os
import platform
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

_FLAGS = ("avx2", "fma", "avx512f", "avx512_vnni", "avx512_bf16", "avx_vnni", "amx_bf16", "amx_int8", "asimd")


@dataclass(frozen=True)
class Machine:
    """`id` is a digest of what the other fields say; two machines with one id may share a latency profile."""

    id: str
    cpu: str
    cores: int
    flags: tuple[str, ...]
    system: str

    def to_json(self) -> dict[str, Any]:
        return asdict(self) | {"flags": list(self.flags)}


def this_machine() -> Machine:
    """The machine this process runs on."""
    info = _cpuinfo()
    cpu = info.get("model name") or platform.processor() or platform.machine()
    present = set((info.get("flags") or info.get("Features") or "").split())
    flags = tuple(name for name in _FLAGS if name in present)
    cores = len(os.sched_getaffinity(0))
    stepping = " ".join(info.get(key, "") for key in ("cpu family", "model", "stepping"))
    system = f"{platform.system()} {platform.machine()}"
    digest = hashlib.sha256(f"{cpu}|{stepping}|{flags}|{system}".encode()).hexdigest()[:16]
    return Machine(digest, cpu, cores, flags, system)


def usable_cores() -> float:
    """How many cores this process may use at once: those that it may run on or, where it is less, the quota of its
    control group (v2), such as the limit of a container."""
    cores = float(len(os.sched_getaffinity(0)))
    try:
        quota, period = Path("/sys/fs/cgroup/cpu.max").read_text().split()
        return min(cores, int(quota) / int(period))
    except (OSError, ValueError):  # no such group, or the quota is "max"
        return cores


def memory_bytes() -> int:
    """The memory that this process may use: the machine's or, where it is less, the limit of its control group (v2)."""
    physical = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    try:
        limit = int(Path("/sys/fs/cgroup/memory.max").read_text())
    except (OSError, ValueError):  # no such group, or the limit is "max"
        return physical
    return min(physical, limit)


def _cpuinfo() -> dict[str, str]:
    try:
        text = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return {}
    first = text.split("\n\n", 1)[0]
    pairs = (line.partition(":") for line in first.splitlines())
    return {key.strip(): value.strip() for key, _, value in pairs}
