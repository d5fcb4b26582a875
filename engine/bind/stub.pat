# What nanobind.stubgen cannot know: the arrays of a dictionary, which are checked by hand.
^prunetime\._engine\.SharedEncoder\.__init__$:
    \from typing import Any
    def __init__(self, config: ForwardConfig, plan: ForwardPlan, weights: Mapping[str, NDArray[Any]], threads: int, isa: str = ...) -> None: ...

# Single kernels, for tests alone.
^prunetime\._engine\.testing$:
