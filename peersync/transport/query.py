"""The query of a request as a struct, so that what a route takes is said once.

The struct has the names, the types, the bounds and the defaults; the handler reads it, and the
OpenAPI document is derived from it. What is wrong is said in the words of who typed it. Names
that the struct does not have are ignored, as HTTP's other programs do.
"""

from __future__ import annotations

import re
from typing import TypeVar

import msgspec
from aiohttp import web
from msgspec import inspect

from peersync.core.errors import BadRequest

T = TypeVar("T", bound=msgspec.Struct)

_FIELD = re.compile(r"`\$\.(\w+)`$|required field `(\w+)`$")


def read_query(request: web.Request, kind: type[T]) -> T:
    """BadRequest for what is missing, or does not fit its field. Of a repeated name the first."""
    names = [field.encode_name for field in msgspec.structs.fields(kind)]
    given = {name: request.query[name] for name in names if name in request.query}
    try:
        return msgspec.convert(given, kind, strict=False)
    except msgspec.ValidationError as error:
        found = _FIELD.search(str(error))
        name = (found[1] or found[2]) if found else ""
        if name not in given:
            raise BadRequest(f"which {name}? Add ?{name}=…") from error
        raise BadRequest(f"{name} must be {_form(kind, name)}") from error


def _form(kind: type[msgspec.Struct], name: str) -> str:
    info = inspect.type_info(kind)
    assert isinstance(info, inspect.StructType)
    return _words(next(field.type for field in info.fields if field.encode_name == name))


def _words(of: inspect.Type) -> str:
    match of:
        case inspect.UnionType():
            return " or ".join(_words(t) for t in of.types if not isinstance(t, inspect.NoneType))
        case inspect.Metadata():
            return str((of.extra_json_schema or {}).get("description") or _words(of.type))
        case inspect.BoolType():
            return "true or false"
        case inspect.IntType() if of.ge is not None and of.le is not None:
            return f"a number from {of.ge} to {of.le}"
        case inspect.IntType():
            return "a whole number" if of.ge is None else f"a number from {of.ge} on"
        case inspect.LiteralType():
            return " or ".join(str(value) for value in of.values)
        case inspect.EnumType():
            return " or ".join(str(one.value) for one in of.cls)
        case inspect.StrType() if of.pattern is not None:
            return f"of the form {of.pattern}"
        case inspect.StrType() if of.max_length is not None:
            return f"{of.min_length or 0} to {of.max_length} characters"
    return "something else"
