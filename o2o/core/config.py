"""Checks frozen dataclasses and converts them to JSON and back.

An error about a field is a `FieldError`, which names the field by its path (`PlannerConfig.num_samples`);
the command line replaces the path with the flag (`--planner.num-samples`).
"""

import dataclasses
import itertools
import json
import math
import re
import sys
import types
import typing
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

from o2o.core.errors import UsageError
from o2o.core.files import read_text

MAX_FLOAT = 3.4028235e38  # the largest float32


class FieldError(UsageError):
    """A value in a config that is refused, with the fields that the message names.

    Attributes:
        kind: class of the config.
        fields: dotted paths of the named fields, from that class on.
    """

    def __init__(self, config, template: str):
        """
        Args:
            config: the dataclass instance, or its class.
            template: the message, with each field in angle brackets: `<num_samples> is 0, wanted 1`.
        """
        self.kind: type = config if isinstance(config, type) else type(config)
        self._template = template
        names = {field.name for field in dataclasses.fields(self.kind)}
        marked = re.findall(r"<([\w.]+)>", template)
        self.fields = [path for path in dict.fromkeys(marked) if path.split(".")[0] in names]
        super().__init__(self.text({path: f"{self.kind.__name__}.{path}" for path in self.fields}))

    def text(self, names: Mapping[str, str]) -> str:
        """Returns the message with a name, such as a flag, in place of each field."""
        return re.sub(r"<([\w.]+)>", lambda match: names.get(match[1], match[0]), self._template)


class SavedConfigError(UsageError):
    """A saved config that was edited, or written by another version of o2o, of a robot's or a model's file.

    Attributes:
        problem: what does not fit, without the advice.
        writer: whose other version wrote the config: `o2o`, or the path of a robot's or a model's file.
    """

    def __init__(self, kind: type, problem: str):
        module = sys.modules[kind.__module__]
        self.problem = f"the saved {kind.__name__} {problem}"
        self.writer = "o2o" if kind.__module__.startswith("o2o.") else str(module.__file__)
        super().__init__(
            f"{self.problem}: it was edited, or written by another version of {self.writer}; "
            "pretrain again, or use that version"
        )


def at_least(config, **bounds: float) -> None:
    """Checks lower bounds of fields.

    Raises:
        FieldError: a field of `config` is below its bound, or NaN.
    """
    for name, bound in bounds.items():
        value = getattr(config, name)
        if not value >= bound:
            raise FieldError(config, f"<{name}> is {value}, wanted at least {bound:g}")


def at_most(config, **bounds: float) -> None:
    """Checks upper bounds of fields.

    Raises:
        FieldError: a field of `config` is above its bound, or NaN.
    """
    for name, bound in bounds.items():
        value = getattr(config, name)
        if not value <= bound:
            raise FieldError(config, f"<{name}> is {value}, wanted at most {bound:g}")


def check_finite(config) -> None:
    """Checks every number of a config and of the configs inside it; in no field does infinity have a meaning.

    Raises:
        FieldError: a number is NaN, infinite, or too large for float32, in which models compute, or for a
            whole number of 64 bits; the line names its field.
    """
    for path, number in _numbers(config):
        if isinstance(number, int):
            if not _is_int(number):
                raise FieldError(config, f"<{path}> is {_shown(number)}, wanted a whole number of 64 bits")
        elif not math.isfinite(number):
            raise FieldError(config, f"<{path}> is {number}, wanted a finite number")
        elif abs(number) > MAX_FLOAT:
            raise FieldError(config, f"<{path}> is {number}, wanted a number within {MAX_FLOAT:.2g}")


def _numbers(value, path: str = "") -> Iterator[tuple[str, float | int]]:
    """Yields (dotted path of the field, number) of every number, also in tuples, and of floats in dicts.

    Whole numbers in a dict may have more bits, such as the states of random generators.
    """
    if dataclasses.is_dataclass(value):
        for field in dataclasses.fields(value):
            yield from _numbers(getattr(value, field.name), f"{path}.{field.name}".lstrip("."))
    elif isinstance(value, dict):
        numbers = itertools.chain.from_iterable(_numbers(item, path) for item in value.values())
        yield from ((path, number) for path, number in numbers if isinstance(number, float))
    elif isinstance(value, (list, tuple)):
        for item in value:
            yield from _numbers(item, path)
    elif isinstance(value, float) or (isinstance(value, int) and not isinstance(value, bool)):
        yield path, value


def to_dict(config) -> dict:
    """Converts a nested dataclass to plain JSON types."""
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
    """Builds a dataclass from the output of `to_dict`, after checking the type of every value.

    Nothing is converted that `to_dict` did not convert: a text is no number, a fraction no whole number.

    Args:
        kind: the dataclass.
        data: plain values by field name; fields that are missing take their defaults.
        nested: field name -> actual class, for fields that are annotated with a base class.
    Raises:
        SavedConfigError: a field that `kind` does not have, or lacks; or a value of another type than its
            annotation, or that `kind` refuses.
    """
    hints, nested = typing.get_type_hints(kind), nested or {}
    if not isinstance(data, dict):
        raise SavedConfigError(kind, f"is {_shown(data)}, wanted an object")
    unknown = sorted(set(data) - set(hints))
    if unknown:
        raise SavedConfigError(kind, f"has unknown {_listed(unknown)}")
    missing = [field.name for field in dataclasses.fields(kind) if _is_required(field, data)]
    if missing:
        raise SavedConfigError(kind, f"has no {_listed(missing)}")
    try:
        values = {name: _typed(nested.get(name, hints[name]), data[name], name, nested) for name in data}
        return kind(**values)
    except _TypeMismatch as error:
        raise SavedConfigError(kind, f"has {error}") from error
    except FieldError as error:
        problem = error.text({path: path for path in error.fields})
        raise SavedConfigError(kind, f"is refused: {problem}") from error


def read_json(path: Path, kind: type):
    """Builds a dataclass from a JSON file that holds the output of `to_dict`; see `from_dict`.

    Raises:
        UsageError: the file cannot be read, or does not hold that; the line names it.
    """
    try:
        return from_dict(kind, json.loads(read_text(path)))
    except (OSError, ValueError, RecursionError) as error:
        raise UsageError(f"{path} is not readable: {error}") from error
    except SavedConfigError as error:
        raise UsageError(
            f"{path} was edited, or written by another version of o2o: {error.problem}"
        ) from error


class _TypeMismatch(Exception):
    """A value of another type than its annotation."""

    def __init__(self, path: str, value, wanted: str):
        super().__init__(f"{path} {_shown(value)}, wanted {wanted}")


def _is_required(field: dataclasses.Field, data: dict) -> bool:
    has_default = field.default is not field.default_factory  # both are MISSING where there is none
    return field.name not in data and not has_default


def _shown(value) -> str:
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."


def _listed(names: list[str]) -> str:
    return f"{'field' if len(names) == 1 else 'fields'} {', '.join(map(repr, names))}"


def _typed(hint, value, path: str, nested: Mapping[str, type]):
    """Returns a plain value as the type of an annotation; annotations that JSON does not know pass anything.

    Raises:
        _TypeMismatch: it has another type.
    """
    origin, args = typing.get_origin(hint), typing.get_args(hint)
    if hint is typing.Any:
        return value
    if dataclasses.is_dataclass(hint):
        return from_dict(typing.cast(type, hint), value, dict(nested))
    if origin in (types.UnionType, typing.Union):
        return _first_typed(args, value, path, nested)
    if origin is typing.Literal:
        choices = [choice for choice in args if isinstance(value, type(choice)) and value == choice]
        if not choices:
            raise _TypeMismatch(path, value, f"one of {args}")
        return choices[0]
    if tuple in (hint, origin):
        return _typed_tuple(args, value, path, nested)
    if dict in (hint, origin):
        if not isinstance(value, dict) or not all(map(_is_text, value)):
            raise _TypeMismatch(path, value, "an object")
        item = args[1] if args else typing.Any
        return {key: _typed(item, each, f"{path}.{key}", nested) for key, each in value.items()}
    if hint in _PLAIN:
        is_valid, convert, wanted = _PLAIN[hint]
        if not is_valid(value):
            raise _TypeMismatch(path, value, wanted)
        return convert(value)
    return tuple(value) if isinstance(value, list) else value


def _first_typed(hints: tuple, value, path: str, nested: Mapping[str, type]):
    """Returns the value as the first type that it fits."""
    wanted = []
    for hint in hints:
        try:
            return _typed(hint, value, path, nested)
        except _TypeMismatch as error:
            wanted.append(str(error).rpartition(", wanted ")[2])
    raise _TypeMismatch(path, value, " or ".join(dict.fromkeys(wanted)))


def _typed_tuple(hints: tuple, value, path: str, nested: Mapping[str, type]) -> tuple:
    if not isinstance(value, (list, tuple)):
        raise _TypeMismatch(path, value, "a list")
    if len(hints) == 2 and hints[1] is Ellipsis:
        hints = hints[:1] * len(value)
    if len(hints) != len(value):
        raise _TypeMismatch(path, value, f"a list of {len(hints)} entries")
    return tuple(
        _typed(h, v, f"{path}[{i}]", nested) for i, (h, v) in enumerate(zip(hints, value, strict=True))
    )


def _is_int(value) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and -(2**63) <= value < 2**63


def _is_float(value) -> bool:
    return isinstance(value, float) or _is_int(value)


def _is_text(value) -> bool:
    """Whether a value is a text that can be a path and be printed: without NUL and lone surrogates."""
    return isinstance(value, str) and not re.search("[\0\ud800-\udfff]", value)


# type -> (whether a plain value has it, conversion, what was wanted)
_PLAIN: dict[typing.Any, tuple[Callable, Callable, str]] = {
    bool: (lambda value: isinstance(value, bool), lambda value: value, "true or false"),
    int: (_is_int, lambda value: value, "a whole number of 64 bits"),
    float: (_is_float, float, "a number"),
    str: (_is_text, lambda value: value, "a text"),
    Path: (_is_text, Path, "a path"),
    type(None): (lambda value: value is None, lambda value: value, "null"),
}
