"""Prompts: texts that go before a text that a model reads, as sentence-transformers has them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from prunetime.core.record import Record
from prunetime.errors import InputError


@dataclass(frozen=True)
class Prompts(Record):
    """The prompts of a model: `texts` by their names, and the name of the one that is the `default`, if one is."""

    texts: Mapping[str, str] = field(default_factory=dict)
    default: str | None = None

    def __post_init__(self) -> None:
        for name, text in self.texts.items():
            if not isinstance(text, str):
                raise InputError(f"prompts: {name!r} is {text!r}; it must be a text")
        if self.default is not None and self.default not in self.texts:
            raise InputError(
                f"default_prompt_name is {self.default!r}, which is no name of a prompt; prompts has {self._names}"
            )

    def resolve(self, name: str | None = None, prompt: str | None = None) -> str:
        """The text to put before a text: `prompt`, or the prompt `name`, or the default one; empty where there is none.

        Raises InputError for a name that no prompt has, and where both are given.
        """
        if prompt is not None and name is not None:
            raise InputError(f"a prompt and the prompt name {name!r}: give one of them")
        if prompt is not None:
            return prompt
        chosen = self.default if name is None else name
        if chosen is None:
            return ""
        if chosen not in self.texts:
            raise InputError(f"prompt_name: the model has no prompt {chosen[:80]!r}; it has {self._names}")
        return self.texts[chosen]

    @property
    def _names(self) -> str:
        return ", ".join(self.texts) or "none"
