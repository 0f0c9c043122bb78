"""Frozen dataclasses to JSON and back."""

import dataclasses
import types
import typing
from pathlib import Path

from o2o.core.errors import UsageError


def at_least(config, **bounds: float) -> None:
    """
    Raises:
        UsageError: a field of `config` is under its bound.
    """
    for name, bound in bounds.items():
        value = getattr(config, name)
        if not value >= bound:
            raise UsageError(f"{name.replace('_', '-')} is {value}, wanted at least {bound:g}")


def at_most(config, **bounds: float) -> None:
    """
    Raises:
        UsageError: a field of `config` is over its bound.
    """
    for name, bound in bounds.items():
        value = getattr(config, name)
        if not value <= bound:
            raise UsageError(f"{name.replace('_', '-')} is {value}, wanted at most {bound:g}")


def to_dict(config) -> dict:
    """A nested dataclass as plain JSON types."""
    return {f.name: _plain(getattr(config, f.name)) for f in dataclasses.fields(config)}


def _plain(value):
    if dataclasses.is_dataclass(value):
        return to_dict(value)
    if isinstance(value, Path):
        return str(value)
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(item) for item in value]
    return value


def from_dict(kind: type, data: dict, nested: dict[str, type] | None = None):
    """A dataclass from what `to_dict` wrote.

    Args:
        kind: the dataclass.
        data: plain values by field name.
        nested: field name -> actual class, for fields that are annotated by a base class.
    Raises:
        UsageError: a field or a choice that `kind` does not have (a config of another version).
    """
    hints, nested = typing.get_type_hints(kind), nested or {}
    unknown = sorted(set(data) - set(hints))
    if unknown:
        raise UsageError(f"saved {kind.__name__} has unknown fields {unknown}; have {sorted(hints)}")
    values = {}
    for name, value in data.items():
        hint = nested.get(name, hints[name])
        if dataclasses.is_dataclass(hint) and isinstance(value, dict):
            inner = {key: type_ for key, type_ in nested.items()}
            values[name] = from_dict(typing.cast(type, hint), value, inner)
        else:
            values[name] = _typed(hint, value)
            choices = typing.get_args(hint) if typing.get_origin(hint) is typing.Literal else ()
            if choices and value not in choices:
                raise UsageError(f"saved {kind.__name__} has {name} {value!r}, wanted one of {choices}")
    return kind(**values)


def _typed(hint, value):
    options = typing.get_args(hint) if isinstance(hint, types.UnionType) else (hint,)
    if value is not None and Path in options:
        return Path(value)
    if isinstance(value, list):
        return tuple(value)
    return value
