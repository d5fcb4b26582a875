"""Public benchmarks that have a name of their own: where the hub has them, and how they are judged."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Benchmark:
    """A dataset of the hub. Its test labels are not public, so that what its leaderboards judge by `metric` is here
    judged on the split `judged`."""

    dataset: str
    metric: str
    judged: str = "validation"

    def split(self, role: str) -> str:
        """The name of the hub's split that is `train` or `test` here."""
        return "train" if role == "train" else self.judged


def _glue(config: str, metric: str, judged: str = "validation") -> Benchmark:
    return Benchmark(f"nyu-mll/glue:{config}", metric, judged)


BENCHMARKS = {
    "glue:cola": _glue("cola", "mcc"),
    "glue:sst2": _glue("sst2", "accuracy"),
    "glue:mrpc": _glue("mrpc", "f1"),
    "glue:stsb": _glue("stsb", "spearman"),
    "glue:qqp": _glue("qqp", "f1"),
    "glue:mnli": _glue("mnli", "accuracy", "validation_matched"),
    "glue:mnli-mm": _glue("mnli", "accuracy", "validation_mismatched"),
    "glue:qnli": _glue("qnli", "accuracy"),
    "glue:rte": _glue("rte", "accuracy"),
    "glue:wnli": _glue("wnli", "accuracy"),
    "squad:v1": Benchmark("rajpurkar/squad", "f1"),
    "squad:v2": Benchmark("rajpurkar/squad_v2", "f1"),
}
"""GLUE (Wang et al., arXiv 1804.07461; of two metrics of a task, one) and SQuAD (arXiv 1606.05250, 1806.03822)."""
