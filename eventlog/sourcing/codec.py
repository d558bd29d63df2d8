"""Codecs: typed data to bytes and back.

A class is registered under a name that goes into the log and stays: renaming the class later changes
nothing, as long as it stays registered under the old name.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any, Literal, Protocol, TypeVar, overload

import msgspec

from eventlog.errors import EventDecodeError, InvalidNameError, UnknownEventTypeError

Class = TypeVar("Class", bound=type)

TYPE_SIZE_BYTES_MAX = 1024
_type = type  # `type` names a parameter below


class Codec(Protocol):
    """What an event store needs of a codec. One object serves several threads at a time."""

    @property
    def content_type(self) -> str:
        """The media type of what ``encode`` makes."""

    def type_of(self, data: object) -> str | None:
        """The type under which the class of ``data`` is registered; None: it is not."""

    def has_type(self, event_type: str) -> bool:
        """Whether a class is registered for the type."""

    def encode(self, data: object) -> bytes:
        """The bytes of ``data``. Raises TypeError for what the codec cannot encode."""

    def decode(self, event_type: str, data: bytes, content_type: str | None) -> object:
        """The object in ``data``; ``content_type`` is None where it is the codec's own.

        Raises EventDecodeError and, if the codec is so minded, UnknownEventTypeError.
        """


def type_name(name: object) -> str:
    """``name``, if it can be an event type: text of 1 to 1024 bytes. Raises InvalidNameError."""
    if isinstance(name, str) and 0 < len(name) <= TYPE_SIZE_BYTES_MAX:
        try:
            if len(name.encode()) <= TYPE_SIZE_BYTES_MAX:
                return name
        except UnicodeEncodeError:
            pass
    raise InvalidNameError(
        f"{name!r} cannot be an event type",
        hint=f"Give a non-empty str of at most {TYPE_SIZE_BYTES_MAX} bytes in UTF-8",
        name=name,
    )


class JsonCodec:
    """JSON by msgspec: msgspec Structs, dataclasses, plain values, and bytes as they are.

    ``unknown`` says what ``data`` of an event is whose type is not registered: ``"builtins"`` the
    decoded JSON (dict, list, ...), ``"raw"`` the bytes, ``"raise"`` an UnknownEventTypeError.

    Registering may go on while other threads read and write.
    """

    content_type = "application/json"

    def __init__(self, *, unknown: Literal["builtins", "raw", "raise"] = "builtins") -> None:
        if unknown not in ("builtins", "raw", "raise"):
            raise ValueError(f"unknown={unknown!r}: choose 'builtins', 'raw' or 'raise'")
        self.unknown = unknown
        self._types: dict[type, str] = {}
        self._decoders: dict[str, msgspec.json.Decoder[Any]] = {}
        self.encode: Callable[[object], bytes] = msgspec.json.Encoder().encode
        self._decode_any = msgspec.json.Decoder().decode

    @overload
    def register(self, cls: Class, type: str | None = None) -> Class: ...
    @overload
    def register(self, cls: None = None, type: str | None = None) -> Callable[[Class], Class]: ...
    def register(self, cls: Any = None, type: str | None = None) -> Any:  # noqa: A002
        """Register a msgspec Struct or a dataclass under a stable name (None: the class's own name).

        Works as a call and as a decorator, ``@codec.register`` or ``@codec.register(type="...")``.
        Registering a class again under a further name adds that name for reading; writing uses the
        newest. Raises InvalidNameError (a name that is taken by another class, or cannot be one) and
        TypeError (a class that is neither a Struct nor a dataclass).
        """
        if cls is None:
            return lambda late: self.register(late, type)
        if not isinstance(cls, _type) or not (
            issubclass(cls, msgspec.Struct) or dataclasses.is_dataclass(cls)
        ):
            raise TypeError(f"{cls!r} is neither a msgspec Struct nor a dataclass")
        name = type_name(cls.__name__ if type is None else type)
        decoder = msgspec.json.Decoder(cls)
        taken = self._decoders.get(name)
        if taken is not None and taken.type is not cls:
            raise InvalidNameError(
                f"the event type {name!r} is taken by {taken.type.__qualname__}",
                hint="Register the class under another name",
                name=name,
            )
        self._decoders[name] = decoder
        self._types[cls] = name
        return cls

    def type_of(self, data: object) -> str | None:
        """The type of a registered class's instance; None for anything else."""
        return self._types.get(data.__class__)

    def has_type(self, event_type: str) -> bool:
        """Whether a class is registered for the type."""
        return event_type in self._decoders

    def decode(self, event_type: str, data: bytes, content_type: str | None) -> object:
        """The object in ``data``: of the registered class, else as ``unknown`` says.

        Bytes of another content type than JSON come back as they are.
        """
        if content_type is not None and content_type != self.content_type:
            return data
        decoder = self._decoders.get(event_type)
        try:
            if decoder is not None:
                return decoder.decode(data)
            if self.unknown == "builtins":
                return self._decode_any(data)
        except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
            raise EventDecodeError(
                f"data of type {event_type!r} does not decode: {error}",
                hint="Read raw_data, or register a class that fits what was stored",
                event_type=event_type,
            ) from error
        if self.unknown == "raw":
            return data
        raise UnknownEventTypeError(
            f"no class is registered for the event type {event_type!r}",
            hint="Register one with codec.register, or make the codec with unknown='builtins'",
            event_type=event_type,
        )
