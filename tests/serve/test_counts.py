"""What is counted stays small, however often models are swapped, and adds up over processes."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from prunetime.serve.core import counts
from prunetime.serve.core.metrics import Metrics
from prunetime.serve.core.models import LoadedModel, ModelRegistry


@pytest.fixture(scope="module")
def loaded(artifacts: Path) -> LoadedModel:
    return ModelRegistry(1, 1 << 20).register("pairs", artifacts / "pairs")


def answer(metrics: Metrics, one: LoadedModel) -> None:
    """Counts what a request is counted as."""
    one.read([("red sofa", "lamp")])
    metrics.requests["/predict", "200"].inc()
    metrics.rows[one.label,].inc(1)
    metrics.tokens[one.label,].inc(7)
    for stage in ("tokenize", "queue", "compute"):
        metrics.seconds[one.label, stage].observe(0.001)


def lines(metrics: Metrics) -> dict[str, float]:
    found = (line.rsplit(" ", 1) for line in metrics.text().decode().splitlines() if line[0] != "#")
    return {name: float(value) for name, value in found if "_created" not in name}


@pytest.mark.parametrize("together", [False, True])
def test_a_thousand_swaps_leave_no_more_than_one(loaded: LoadedModel, tmp_path: Path, together: bool) -> None:
    file = tmp_path / "0.json" if together else None
    metrics = Metrics(file)
    samples, size = 0, 0
    for number in range(1_000):
        one = replace(loaded, version=str(number))
        answer(metrics, one)
        metrics.flush([one], 0)
        if number == 0:
            samples, size = len(lines(metrics)), file.stat().st_size if file else 0
        if number in (20, 999):
            assert len(lines(metrics)) == samples
            assert (file.stat().st_size if file else 0) <= 1.1 * size
    assert lines(metrics)['prunetime_requests_total{route="/predict",status="200"}'] == 1_000.0
    assert lines(metrics)[f'prunetime_rows_total{{model="{one.label}"}}'] == 1.0


def test_processes_add_up_and_those_that_ended_count(loaded: LoadedModel, tmp_path: Path) -> None:
    gone = replace(loaded, version="0")
    processes = [Metrics(tmp_path / f"{number}.json") for number in range(4)]

    def flush() -> None:
        for number, metrics in enumerate(processes):
            if number not in ended:
                metrics.flush([loaded], 10)

    ended: list[int] = []
    for number, metrics in enumerate(processes):
        for _ in range(number + 1):
            answer(metrics, loaded)
        answer(metrics, gone)
    flush()
    expected = lines(processes[0])
    assert expected['prunetime_rows_total{model="pairs/1"}'] == 10.0
    assert expected['prunetime_seconds_bucket{le="+Inf",model="pairs/1",stage="compute"}'] == 10.0
    assert expected['prunetime_requests_total{route="/predict",status="200"}'] == 14.0
    assert expected["prunetime_queued_tokens"] == 40.0
    assert not any(gone.label in name for name in expected)
    for number in (3, 1):
        ended.append(number)
        counts.retire(tmp_path / f"{number}.json", [loaded.label])
        flush()
        found = lines(processes[0])
        assert found.pop("prunetime_queued_tokens") == 40.0 - 10.0 * len(ended)
        cached = found.pop('prunetime_cached_texts{model="pairs/1"}')
        assert cached == 2.0 * (4 - len(ended))
        assert found == {name: expected[name] for name in found}
    assert sorted(file.name for file in tmp_path.iterdir()) == ["0.json", "2.json", "ended.json"]
    counts.retire(tmp_path / "5.json", [])  # of a process that had counted nothing


def test_a_process_that_ends_while_its_counts_are_read_counts_once(
    loaded: LoadedModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    one, other = (Metrics(tmp_path / f"{number}.json") for number in range(2))
    for metrics in (one, other):
        answer(metrics, loaded)
        metrics.flush([loaded], 0)
    read = counts._read

    def ending(file: Path) -> counts.Counts | None:
        found = read(file)
        if file.name == "1.json":
            monkeypatch.setattr(counts, "_read", read)
            counts.retire(file, [loaded.label])
        return found

    monkeypatch.setattr(counts, "_read", ending)
    assert lines(one)['prunetime_rows_total{model="pairs/1"}'] == 2.0
    assert lines(one)['prunetime_rows_total{model="pairs/1"}'] == 2.0
