"""Each process writes its counters to a file; the files of one folder are added up for `/metrics`.

prometheus_client has a multi-process mode of its own, in memory-mapped files. Nothing can be removed from those, so
they would grow with every version of a model that was ever served.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Iterable, Iterator, Sequence
from contextlib import suppress
from itertools import chain
from pathlib import Path

import msgspec
from msgspec import Struct
from prometheus_client import Metric

ENDED = "ended.json"
"""The file with the counters of processes that have ended."""


class Sample(Struct, array_like=True, frozen=True):
    name: str
    labels: dict[str, str]
    value: float


class MetricFamily(Struct):
    """A metric family holds the samples of one metric; `kind` is what Prometheus calls its type."""

    name: str
    documentation: str
    kind: str
    samples: list[Sample]


class Counts(Struct):
    """The content of a file: metric families, and the names of the files whose sum they are."""

    families: list[MetricFamily]
    files: list[str] = []


DECODER = msgspec.json.Decoder(Counts)


def families_of(metrics: Iterable[Metric]) -> list[MetricFamily]:
    """Converts the metrics of prometheus_client. The time at which a counter was created is left out: it means nothing
    in a sum."""
    families = []
    for metric in metrics:
        counted = (sample for sample in metric.samples if sample.name != f"{metric.name}_created")
        samples = [Sample(sample.name, sample.labels, sample.value) for sample in counted]
        families.append(MetricFamily(metric.name, metric.documentation, metric.type, samples))
    return families


def write(file: Path, families: Sequence[MetricFamily], files: Sequence[str] = ()) -> None:
    """Writes a file of counters atomically, without a flush to disk: they need not survive a reboot."""
    whole = file.with_suffix(".tmp")
    whole.write_bytes(msgspec.json.encode(Counts(list(families), list(files))))
    whole.replace(file)


def read_sum(folder: Path, models: Collection[str]) -> list[MetricFamily]:
    """Adds up the counters of all processes, ended ones included. Samples of models that are not in `models` are left
    out."""
    own = {file.name: counts for file in folder.glob("*.json") if (counts := _read(file)) and file.name != ENDED}
    ended = _read(folder / ENDED) or Counts([])  # last: a file that is gone by now is in it
    counted = [ended, *(counts for name, counts in own.items() if name not in ended.files)]
    return _sum((counts.families for counts in counted), models)


def retire(file: Path, models: Collection[str]) -> None:
    """Adds the counters of a process that has ended to `ENDED`, and removes its file."""
    counts, ended = _read(file), _read(file.parent / ENDED) or Counts([])
    if counts is None:  # it had not counted anything yet
        return
    kept = [family for family in counts.families if family.kind != "gauge"]  # that is what it has now
    write(file.parent / ENDED, _sum([ended.families, kept], models), [*ended.files, file.name])
    file.unlink()


class Collected:
    """A collector, as `prometheus_client.generate_latest` takes it, of metric families."""

    def __init__(self, families: Sequence[MetricFamily]) -> None:
        self._families = families

    def collect(self) -> Iterator[Metric]:
        for family in self._families:
            metric = Metric(family.name, family.documentation, family.kind)
            for sample in family.samples:
                metric.add_sample(sample.name, sample.labels, sample.value)
            yield metric


def _read(file: Path) -> Counts | None:
    with suppress(FileNotFoundError):
        return DECODER.decode(file.read_bytes())
    return None


def _sum(counted: Iterable[Sequence[MetricFamily]], models: Collection[str]) -> list[MetricFamily]:
    families: dict[str, MetricFamily] = {}
    sums: dict[str, dict[tuple[str, tuple[tuple[str, str], ...]], float]] = defaultdict(lambda: defaultdict(float))
    for family in chain.from_iterable(counted):
        families[family.name] = family
        for sample in family.samples:
            if "model" not in sample.labels or sample.labels["model"] in models:
                sums[family.name][sample.name, tuple(sample.labels.items())] += sample.value
    for name, family in families.items():
        family.samples = [Sample(sample, dict(labels), value) for (sample, labels), value in sums[name].items()]
    return list(families.values())
