"""The sanitized builds and the fuzzer notice: each fault, planted in a copy of the engine, is found and named."""

import dataclasses
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from sanitizers import ROOT, SANITIZERS


@dataclasses.dataclass(frozen=True)
class Fault:
    """`sound` in a file of the engine becomes `faulty`; running `arguments` must then end in `report`."""

    sanitizer: str
    file: str
    sound: str
    faulty: str
    arguments: tuple[str, ...]
    report: str


FAULTS = {
    "a kernel reads past its piece of the arena": Fault(
        "address",
        "kernels/gemm.inl.h",
        "block < piece.end_block;",
        "block <= piece.end_block;",
        ("-m", "pytest", "tests/engine/test_forward.py", "-k", "every_layer_gone"),
        "AddressSanitizer: use-after-poison",
    ),
    "a job is handed over without order": Fault(
        "thread",
        "base/thread_pool.cpp",
        "job_.fetch_add(1, std::memory_order_release)",
        "job_.fetch_add(1, std::memory_order_relaxed)",
        ("-m", "pytest", "tests/inference/test_engine.py", "-k", "concurrent"),
        "ThreadSanitizer: data race",
    ),
    "token ids are not checked": Fault(
        "fuzz",
        "encoder/config.cpp",
        'check_indices("ids", ids, tokens(), config.vocabulary);',
        "",
        ("tests/fuzz_engine.py", "-max_total_time=150"),
        "AddressSanitizer:",
    ),
}


@pytest.mark.full
@pytest.mark.parametrize("name", FAULTS)
def test_a_planted_fault_of_the_engine_is_found(name: str, tmp_path: Path) -> None:
    fault = FAULTS[name]
    engine = shutil.copytree(ROOT / "engine", tmp_path / "engine")
    replace(engine / fault.file, fault.sound, fault.faulty)
    sanitizer = dataclasses.replace(SANITIZERS[fault.sanitizer], portable=True)
    environment = sanitizer.environment(sanitizer.build(tmp_path / "build", engine))
    ran = subprocess.run([sys.executable, *fault.arguments], cwd=ROOT, env=environment, capture_output=True, text=True)
    assert ran.returncode != 0
    assert fault.report in ran.stderr, ran.stdout + ran.stderr


def replace(file: Path, old: str, new: str) -> None:
    text = file.read_text(encoding="utf-8")
    assert old in text
    file.write_text(text.replace(old, new), encoding="utf-8")
