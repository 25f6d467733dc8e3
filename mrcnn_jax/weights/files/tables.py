"""Which of a checkpoint's tables of arrays are the weights, and under which names.

Trainers put the state dict under a key, beside optimizers and averaged copies. Wrappers of modules (data parallelism,
compilation, averaging, Lightning) add segments to the names, in any order. Averaged weights are an exponential moving
average (EMA) or a stochastic one (SWA) of the weights of many steps.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from mrcnn_jax.weights.files.reductions import PendingArray
from mrcnn_jax.weights.files.tensors import FileError, Tensor, require

KEYS = ("model", "state_dict", "model_state_dict", "blobs", "model_state", "net", "network", "weights")
"""Keys of the weights in files that also have other content, in order of precedence."""

LEADING = ("module", "model", "ema_model", "model_ema", "ema", "online_model", "_forward_module", "net", "network")
"""First segments of names that wrappers add: torch's parallel and averaging wrappers, Lightning modules, and others."""

INNER = ("_orig_mod", "_fsdp_wrapped_module", "_checkpoint_wrapped_module")
"""Segments that torch's compiler, sharding and checkpointing wrappers add anywhere in a name."""

AVERAGED = re.compile(r"(^|_|\.)(ema|swa|averaged)(_|\.|$)")
"""Keys and wrappers of averaged weights."""

MAX_SHOWN = 3
TAKE = ("auto", "model", "ema")
"""Choices of weights: those that the file's own system would use, those of the last step, the averaged ones."""


class NoSuchWeights(FileError):
    """The file is sound, but lacks the weights that were asked for."""


@dataclass(frozen=True)
class Table:
    """Arrays of one model."""

    place: str
    """Key and wrapper, such as `state_dict: model.`; "" if the file has only these names."""
    items: dict[str, Any]
    """Arrays or tensors by name without the wrapper."""
    is_averaged: bool
    outside: tuple[str, ...] = ()
    """Names of arrays beside the model's, which are not part of it."""

    @property
    def label(self) -> str:
        """A phrase for messages."""
        kind = "averaged weights (EMA)" if self.is_averaged else "weights"
        return f"{kind} in `{self.place}`" if self.place else f"{kind} of the file"


def choose_table(value: Mapping[Any, Any], take: str = "auto") -> tuple[dict[str, Any], tuple[str, ...]]:
    """Returns the arrays of the chosen weights by name without wrappers, and notes about what was chosen or left out.

    `take` is one of TAKE. Raises FileError if the file has no arrays, or not the weights that `take` asks for.
    """
    tables = _find_tables(value)
    require(any(table.items for table in tables), "it has no named arrays")
    wanted = [table for table in tables if take == "auto" or table.is_averaged == (take == "ema")]
    if not wanted:
        raise NoSuchWeights(f"--take {take}: it has only {'; '.join(table.label for table in tables)}")
    chosen = wanted[0]
    notes = []
    others = [table for table in tables if table.is_averaged != chosen.is_averaged]
    if others:
        option = "model" if chosen.is_averaged else "ema"
        notes.append(f"Took the {chosen.label}. The {others[0].label} are left out: --take {option} imports them.")
    elif chosen.is_averaged:
        notes.append(f"Took the {chosen.label}; there are no others.")
    if chosen.outside:
        shown = ", ".join(chosen.outside[:MAX_SHOWN]) + ", ..." * (len(chosen.outside) > MAX_SHOWN)
        counted = f"{len(chosen.outside)} array{'s' * (len(chosen.outside) > 1)}"
        notes.append(f"Left out: {counted} outside `{chosen.place}` ({shown}).")
    return chosen.items, tuple(notes)


def is_array(item: Any) -> bool:
    """Returns whether the item is an array or a tensor."""
    return isinstance(item, (Tensor, PendingArray, np.ndarray))


def _find_tables(value: Mapping[Any, Any]) -> list[Table]:
    """Returns the tables of arrays in order of precedence."""
    averages = [key for key in value if isinstance(key, str) and key not in KEYS and AVERAGED.search(key)]
    named = [(key, _arrays_in(value[key])) for key in (*KEYS, *averages) if key in value]
    named = [(key, arrays) for key, arrays in named if arrays] or [("", _arrays_in(value))]
    tables = [table for key, arrays in named for table in _unwrapped(key, arrays)]
    meta = value.get("meta")
    if "ema_state_dict" in value and isinstance(meta, dict) and "mmengine_version" in meta:
        # MMEngine saves the averaged weights as `state_dict` and the last step's as `ema_state_dict`.
        tables = [replace(table, is_averaged=not table.is_averaged) for table in tables]
    return tables


def _arrays_in(value: Any) -> dict[str, Any]:
    """Returns the arrays of a dict by name; if it has none, those of the state dict inside it."""
    if type(value) is not dict:
        return {}
    inside = [value[key] for key in (*KEYS, *LEADING) if type(value.get(key)) is dict]
    tables = [
        {name: item for name, item in table.items() if isinstance(name, str) and is_array(item)}
        for table in (value, *inside)
    ]
    return next(filter(None, tables), {})


def _unwrapped(key: str, arrays: dict[str, Any]) -> list[Table]:
    """Returns the tables in a state dict: its model without wrappers and, if there is one, the averaged copy.

    Names stay as they are unless one wrapper has more arrays than everything outside it.
    """
    groups: dict[str, dict[str, Any]] = {}
    for name, item in arrays.items():
        wrapper, inner = _split(name)
        require(inner not in groups.setdefault(wrapper, {}), "two arrays have the same name without their wrappers")
        groups[wrapper][inner] = item
    averaged = {wrapper: AVERAGED.search(f"{key}.{wrapper}") is not None for wrapper in groups}
    tables = []
    for is_averaged in (False, True):
        of_kind = {wrapper: group for wrapper, group in groups.items() if averaged[wrapper] == is_averaged}
        if not of_kind:
            continue
        main = max(of_kind, key=lambda wrapper: len(of_kind[wrapper]))
        rest = [f"{wrapper}{name}" for wrapper, group in of_kind.items() if wrapper != main for name in group]
        if main and len(rest) >= len(of_kind[main]):
            return [Table(key, arrays, AVERAGED.search(key) is not None)]
        place = ": ".join(filter(None, (key, main)))
        if main:
            tables.append(Table(place, of_kind[main], is_averaged, tuple(rest)))
        else:
            whole = {f"{wrapper}{name}": item for wrapper, group in of_kind.items() for name, item in group.items()}
            tables.append(Table(place, whole, is_averaged))
    return tables


def _split(name: str) -> tuple[str, str]:
    """Returns the wrappers before a name, such as `module.model.`, and the name without them."""
    segments = [segment for segment in name.split(".") if segment not in INNER]
    count = 0
    while count < len(segments) - 1 and segments[count] in LEADING:
        count += 1
    return "".join(f"{segment}." for segment in segments[:count]), ".".join(segments[count:])
