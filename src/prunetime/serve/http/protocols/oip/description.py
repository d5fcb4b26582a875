"""Metadata, configuration and statistics of a model, in the words of the Open Inference Protocol and Triton."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence

from prometheus_client.parser import text_string_to_metric_families

from prunetime.serve.core.models import LoadedModel
from prunetime.serve.http.protocols.oip import messages as oip
from prunetime.serve.http.protocols.oip.tensors import inputs_of, outputs_of

PLATFORM = "prunetime"

CONFIG_TYPES = {"BYTES": "TYPE_STRING", "FP32": "TYPE_FP32", "INT64": "TYPE_INT64"}
"""Triton's names, in configurations, for the protocol's data types."""


def metadata_of(loaded: LoadedModel, versions: Iterable[str]) -> oip.ModelMetadata:
    """The metadata of a model with these `versions`."""
    manifest = loaded.model.manifest
    parameters = {
        "kind": manifest.task.kind,
        "labels": list(manifest.task.labels),
        "max_length": manifest.task.max_length,
        "measured": manifest.provenance.get("measured"),
    }
    task = manifest.task
    if task.traits.is_multi_label:
        parameters["threshold"] = task.threshold
    return oip.ModelMetadata(loaded.name, list(versions), PLATFORM, inputs_of(task), outputs_of(task), parameters)


def config_of(loaded: LoadedModel) -> oip.ModelConfig:
    """The configuration of a model, in Triton's words."""
    task = loaded.model.manifest.task
    inputs, outputs = (
        [oip.TensorConfig(each.name, CONFIG_TYPES[each.datatype], each.shape) for each in tensors]
        for tensors in (inputs_of(task), outputs_of(task))
    )
    return oip.ModelConfig(loaded.name, PLATFORM, PLATFORM, 0, inputs, outputs)


def statistics_of(loaded: Sequence[LoadedModel], metrics: bytes) -> list[oip.ModelStatistics]:
    """The statistics of each model, from `metrics` in Prometheus' text format."""
    samples: dict[str, dict[tuple[str, str], float]] = defaultdict(lambda: defaultdict(float))
    for family in text_string_to_metric_families(metrics.decode()):
        for sample in family.samples:
            key = sample.name.removeprefix("prunetime_"), sample.labels.get("stage", "")
            samples[sample.labels.get("model", "")][key] = sample.value

    def of(one: LoadedModel) -> oip.ModelStatistics:
        counted = samples[one.label]
        stages = {
            stage: oip.Duration(int(counted["seconds_count", stage]), round(1e9 * counted["seconds_sum", stage]))
            for stage in ("queue", "tokenize", "compute")
        }
        success = oip.Duration(stages["compute"].count, sum(each.ns for each in stages.values()))
        times = oip.InferenceStatistics(success, stages["queue"], stages["tokenize"], stages["compute"])
        return oip.ModelStatistics(one.name, one.version, int(counted["rows_total", ""]), times)

    return [of(one) for one in loaded]
