from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from served import Served, make_artifact


@pytest.fixture(scope="session")
def artifacts(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of them: `pairs`, `other` (the same task, other weights), `topics` and `answers`."""
    root = tmp_path_factory.mktemp("artifacts")
    make_artifact(root / "pairs")
    make_artifact(root / "other", seed=1)
    make_artifact(root / "topics", "topics")
    make_artifact(root / "answers", "answers")
    return root


@pytest.fixture
def root(artifacts: Path, tmp_path: Path) -> Path:
    """Artifacts that a test may change."""
    return Path(shutil.copytree(artifacts, tmp_path / "root"))


@pytest.fixture(scope="session")
def serve() -> Iterator[Callable[..., Served]]:
    running: list[Served] = []

    def start(*words: object) -> Served:
        running.append(Served("--port", "0", *map(str, words)))
        return running[-1]

    yield start
    for one in running:
        one.stop()


@pytest.fixture(scope="session")
def server(serve: Callable[..., Served], artifacts: Path) -> Served:
    """Of all artifacts, for tests that change nothing."""
    names = ("pairs", "topics", "answers")
    return serve(*(artifacts / name for name in names), "--cascade", "either=pairs,pairs")
