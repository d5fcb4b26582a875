"""The Debian packages that the gate needs: fails naming the missing ones (`--missing` only prints them)."""

import shutil
import sys

PROGRAM_OF = {
    "chromium": "chromium",
    "clang": "clang++",  # for `make fuzz`
    "postgresql": "pg_virtualenv",
    "qemu-user": "qemu-x86_64",
    "g++-aarch64-linux-gnu": "aarch64-linux-gnu-g++",
}
"""Program by package."""


def missing() -> list[str]:
    return [package for package, program in PROGRAM_OF.items() if shutil.which(program) is None]


if __name__ == "__main__":
    packages = " ".join(missing())
    if "--missing" in sys.argv:
        print(packages)
    elif packages:
        sys.exit(f"missing system packages: apt-get install {packages}")
