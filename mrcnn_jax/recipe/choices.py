"""Values of settings by name, each with the reason for it; values that the user gives win."""

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, TypeVar

from mrcnn_jax.config import Config

T = TypeVar("T")

GIVEN = "Given on the command line."


@dataclass
class Choices:
    """The settings chosen so far, in order."""

    given: Mapping[str, Any]
    """Settings that win over any suggestion, by names such as `train.batch_size`."""
    given_reasons: Mapping[str, str] = field(default_factory=dict)
    """Reasons of given settings that do not come from the command line."""
    values: dict[str, Any] = field(default_factory=dict)
    reasons: dict[str, str] = field(default_factory=dict)

    def choose(self, name: str, value: T, reason: str) -> T:
        """Records the value, or the given one, and returns it."""
        if name in self.given:
            value, reason = self.given[name], self.given_reasons.get(name, GIVEN)
        self.values[name] = value
        self.reasons[name] = reason
        return value

    def add_given(self) -> None:
        """Records the given settings for which nothing was suggested."""
        for name, value in self.given.items():
            if name not in self.values:
                self.choose(name, value, GIVEN)

    def config(self) -> Config:
        """Returns the configuration with these values. Raises ValueError if they do not fit together."""
        sections: dict[str, dict[str, Any]] = {}
        for name, value in self.values.items():
            section, _, key = name.partition(".")
            sections.setdefault(section, {})[key] = value
        defaults = Config()
        replaced = {name: dataclasses.replace(getattr(defaults, name), **keys) for name, keys in sections.items()}
        return dataclasses.replace(defaults, **replaced)
