"""Prunes a model from Python, and scores with what comes of it.

python prune.py MODEL DATA OUT
"""

import sys

from prunetime import Budget, Effort, Settings, prune


def main(model: str, data: str, out: str) -> None:
    settings = Settings(
        model,
        data,
        Budget(share=0.7, seq_len=24),
        text=("query", "title"),
        label="label",
        group="query",
        effort=Effort.named("quick"),
    )
    found = prune(settings, out)
    for name, measured in (("dense", found.dense), ("pruned", found.pruned)):
        print(
            f"{name}: {measured.p50_us:.0f} us, {measured.metric} {measured.value:.4f}, {measured.params:,} parameters"
        )
    model_ready = found.load()
    print(model_ready.score([("red sofa", "velvet couch in red"), ("red sofa", "garden hose")]))


if __name__ == "__main__":
    main(*sys.argv[1:])
