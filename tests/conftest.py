import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

import prunetime

# How long an example takes says nothing on a machine that others use as well.
settings.register_profile("busy", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("busy")

collect_ignore = ["clients"]
"""Their own environment has them (`make test-clients`)."""


LONGEST = (
    *(
        "test_prune.py",
        "test_trainer.py",
        "test_checkpoints.py",
        "test_precision.py",
        "test_multilevel.py",
        "test_cluster.py",
    ),
    *(
        "test_samplers.py",
        "test_distributed.py",
        "test_forward.py",
        "test_forward_bits.py",
        "test_support.py",
        "test_docs.py",
    ),
)
"""Files that take half a minute or more, which come first: no worker is left alone with one in the end."""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    items.sort(key=lambda item: item.path.name not in LONGEST)


def pytest_configure() -> None:
    """Gives a worker of pytest-xdist a core of its own, so that nothing pushes aside what it times."""
    worker = os.environ.get("PYTEST_XDIST_WORKER", "")
    if worker.startswith("gw"):
        cores = sorted(os.sched_getaffinity(0))
        os.sched_setaffinity(0, {cores[int(worker[2:]) % len(cores)]})


@pytest.fixture
def run_python():
    """Runs code in a fresh interpreter with extra environment variables; returns what it printed."""

    def run(code: str, **environment: str) -> str:
        path = os.pathsep.join([str(Path(prunetime.__file__).parents[1]), os.environ.get("PYTHONPATH", "")])
        done = subprocess.run(
            [sys.executable, "-W", "error", "-c", code],
            env={**os.environ, "PYTHONPATH": path, **environment},
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        return done.stdout

    return run


@pytest.fixture(scope="session")
def postgresql() -> Iterator[str]:
    """URL of a PostgreSQL server, which Debian's `pg_virtualenv` runs until its command ends."""
    url = "postgresql+psycopg://$PGUSER:$PGPASSWORD@$PGHOST:$PGPORT/$PGDATABASE"
    command = ["pg_virtualenv", "-t", "sh", "-c", f"echo {url}; cat"]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as server:
        assert server.stdout
        yield next(line.strip() for line in server.stdout if line.startswith("postgresql"))
        server.communicate()
