"""Runs Python on an engine that is built with a sanitizer: `python tests/sanitizers.py address -m pytest tests/engine`.

The build is kept in build/address (or thread, fuzz) and brought up to date; that is all where nothing is to run. Python
itself has no sanitizer in it, so the sanitizer's runtime is preloaded; `sanitized/sitecustomize.py` puts the build in
the installed engine's place.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

TESTS = Path(__file__).resolve().parent
ROOT = TESTS.parent


@dataclass(frozen=True)
class Sanitizer:
    """A compiler, its flags, its runtime libraries (a function of the compiler's name); `portable`: one table only."""

    compiler: str
    flags: Sequence[str]
    runtime: Callable[[str], Sequence[str]]
    portable: bool = False

    def build(self, folder: Path, source: Path = ROOT / "engine") -> Path:
        """Builds the Python module of `source` in `folder`; returns its path. Raises SystemExit where that fails."""
        compiler = shutil.which(self.compiler)
        if compiler is None:
            raise SystemExit(f"{self.compiler} is missing: install it")
        flags = ";".join([*self.flags, "-g1", "-fno-omit-frame-pointer", "-D_GLIBCXX_ASSERTIONS", "-Wno-error"])
        settings = {
            "CMAKE_BUILD_TYPE": "Debug",
            "CMAKE_CXX_COMPILER": compiler,
            "Python_EXECUTABLE": sys.executable,
            "PRUNETIME_SANITIZE": flags,
            "PRUNETIME_PORTABLE": "ON" if self.portable else "OFF",
        }
        run_tool("cmake", "-S", str(source), "-B", str(folder), *(f"-D{key}={settings[key]}" for key in settings))
        run_tool("cmake", "--build", str(folder), "--parallel", str(os.cpu_count()))
        return next(folder.glob("_engine*.so"))

    def environment(self, module: Path) -> dict[str, str]:
        """The environment in which Python runs on the engine `module`."""
        return {
            **os.environ,
            **OPTIONS,
            "LD_PRELOAD": " ".join(self.runtime(self.compiler)),
            "PYTHONPATH": os.pathsep.join([str(TESTS / "sanitized"), str(TESTS)]),
            "SANITIZED_ENGINE": str(module),
        }


def run_tool(*command: str) -> None:
    """Runs a program of this Python's environment or of the system; prints its output only where it fails."""
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
    program = shutil.which(command[0], path=path)
    if program is None:
        raise SystemExit(f"{command[0]} is missing: pip install {command[0]}")
    ran = subprocess.run([program, *command[1:]], capture_output=True, text=True, check=False)
    if ran.returncode != 0:
        raise SystemExit(f"{' '.join(command)}\n{ran.stdout}{ran.stderr}")


def libraries(*names: str) -> Callable[[str], Sequence[str]]:
    """The runtime libraries that come with a compiler."""
    return lambda compiler: [
        subprocess.run(
            [compiler, f"-print-file-name={name}"], capture_output=True, text=True, check=True
        ).stdout.strip()
        for name in names
    ]


def libfuzzer(_: str) -> Sequence[str]:
    """AddressSanitizer's and libFuzzer's runtime in one, as atheris brings it."""
    import atheris

    return [str(Path(atheris.path()) / "asan_with_fuzzer.so")]


OPTIONS = {
    "ASAN_OPTIONS": "detect_leaks=0:detect_stack_use_after_return=1",  # Python itself leaks at exit
    "UBSAN_OPTIONS": "print_stacktrace=1",
    "TSAN_OPTIONS": "halt_on_error=1",
    "PYTHONMALLOC": "malloc",
    "PYTEST_ADDOPTS": "--capture=sys -p no:cacheprovider",  # a report goes to the process's own stderr
    "OPENBLAS_NUM_THREADS": "1",  # its threads meet where no sanitizer sees it
}
STRICT = ("-O0", "-fno-sanitize-recover=all", "-DPRUNETIME_POISON")  # -O1 takes five times as long to compile

SANITIZERS = {
    "address": Sanitizer("g++", ("-fsanitize=address,undefined", *STRICT), libraries("libasan.so", "libubsan.so")),
    "thread": Sanitizer("g++", ("-O1", "-fsanitize=thread"), libraries("libtsan.so"), portable=True),
    "fuzz": Sanitizer(
        "clang++",
        # Without the two checks that atheris' runtime lacks.
        ("-fsanitize=address,undefined,fuzzer-no-link", "-fno-sanitize=vptr,function", *STRICT),
        libfuzzer,
        portable=True,  # what it calls is the binding; the other tables are the address build's
    ),
}

if __name__ == "__main__":
    name = sys.argv[1]
    sanitizer = SANITIZERS[name]
    module = sanitizer.build(ROOT / "build" / name)
    if sys.argv[2:]:
        os.execve(sys.executable, [sys.executable, *sys.argv[2:]], sanitizer.environment(module))
