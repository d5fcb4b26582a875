# What nanobind.stubgen cannot know: the items of dictionaries, which are checked by hand.
^prunetime\._engine\.Encoder\.__init__$:
    \from typing import Any
    def __init__(self, config: Mapping[str, object], plan: Mapping[str, object], weights: Mapping[str, NDArray[Any]], threads: int, isa: str = ...) -> None: ...

# Single kernels, for tests alone.
^prunetime\._engine\.testing$:
