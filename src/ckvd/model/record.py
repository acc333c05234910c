"""Values as JSON: `Record`, a mixin for dataclasses, and `as_json` for everything in them.

It makes the documents that the command line prints. Times are milliseconds. The JSON in the headers of segments is
another format: `Source` and `Absence` write it themselves, and look the same in documents.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import fields, is_dataclass
from enum import Enum
from pathlib import PurePath
from typing import Any, Final

from ckvd.errors import CkvdError
from ckvd.model.calendar import Period
from ckvd.model.market import SeriesKey
from ckvd.model.provenance import Absence, Source
from ckvd.model.timespan import Span


class Record:
    """A dataclass that knows its JSON object: its fields, in order. Override `to_json` for any other object."""

    __slots__ = ()

    def to_json(self) -> dict[str, Any]:
        """A JSON object; times in milliseconds."""
        return fields_as_json(self)


def fields_as_json(record: Any) -> dict[str, Any]:
    """The fields of a dataclass, in order, each as `as_json` encodes it."""
    return {field.name: as_json(getattr(record, field.name)) for field in fields(record)}


def as_json(value: Any) -> Any:
    """Encode a value.

    Parameters
    ----------
    value : None, bool, number, str, Enum, Span, SeriesKey, Period, path, error, dataclass, mapping, list or tuple

    Returns
    -------
    None, bool, int, float, str, list or dict
        An enum becomes its value, a span `[start_ms, end_ms]`, a series, period, path or error its text, a
        dataclass the object of its fields; `Record`, `Source` and `Absence` have their own `to_json`.

    Raises
    ------
    TypeError
        There is no rule for the value.
    """
    for kinds, encode in _ENCODERS:
        if isinstance(value, kinds):
            return encode(value)
    if is_dataclass(value):
        return fields_as_json(value)
    raise TypeError(f"no JSON is defined for {type(value).__name__}: {value!r}")


# The first match counts: many enums are strings too, and a series is a dataclass.
_ENCODERS: Final[tuple[tuple[Any, Callable[[Any], Any]], ...]] = (
    (Enum, lambda value: value.value),
    ((bool, int, float, str, type(None)), lambda value: value),
    (CkvdError, str),
    (Span, lambda span: [span.start_ms, span.end_ms]),
    ((SeriesKey, Period, PurePath), str),
    (Mapping, lambda mapping: {str(as_json(key)): as_json(item) for key, item in mapping.items()}),
    ((list, tuple), lambda items: [as_json(item) for item in items]),
    ((Record, Source, Absence), lambda record: record.to_json()),
)
