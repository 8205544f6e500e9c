"""Whether an answer is one that etcd's gateway could give: its status, its JSON, and each field by the .proto."""

import base64
import json
import re
from typing import Any

from tests.fuzz.findings import check
from tests.fuzz.gateway_messages import BOOL, BYTES, INT, TEXT, UINT, Message

JSON = "application/json"
TEXT_TYPE = "text/plain; charset=utf-8"
STATUSES = {
    1: 408,
    2: 500,
    3: 400,
    4: 504,
    5: 404,
    6: 409,
    7: 403,
    8: 429,
    9: 400,
    10: 409,
    11: 400,
    12: 501,
    13: 500,
    14: 503,
    15: 500,
    16: 401,
}
"""gRPC's codes and the statuses that grpc-gateway 1.16 gives them."""
MESSAGE_MAX = 300  # no error needs more words, whatever was sent

_SIGNED = re.compile(r"-?[1-9][0-9]{0,18}", re.ASCII)
_UNSIGNED = re.compile(r"[1-9][0-9]{0,19}", re.ASCII)


def parse(text: bytes) -> Any:
    """The JSON of an answer: UTF-8, no name twice, no NaN."""
    check(b"\n" not in text, f"an answer of several lines: {text!r:.200}")
    try:
        return json.loads(text.decode(), object_pairs_hook=_once, parse_constant=_no_constant)
    except ValueError as error:
        check(False, f"an answer that is no JSON, {error}: {text!r:.200}")


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    value = dict(pairs)
    if len(value) != len(pairs):
        raise ValueError("a name twice")
    return value


def _no_constant(name: str) -> Any:
    raise ValueError(name)


def check_message(fields: Message, value: Any, where: str) -> None:
    """That a value is such a message, by etcd's options: names as in the .proto, nothing that is zero."""
    check(type(value) is dict, f"{where}: no object")
    for name, part in value.items():
        check(name in fields, f"{where}: the unknown field {name}")
        _check_field(fields[name], part, f"{where}.{name}")


def _check_field(kind: Any, value: Any, where: str) -> None:
    if type(kind) is dict:
        check_message(kind, value, where)
    elif type(kind) is list:
        check(type(value) is list and value, f"{where}: no array, or an empty one")
        for part in value:
            if kind[0] in (BYTES, TEXT):
                check(type(part) is str, f"{where}: no string")
            else:
                _check_field(kind[0], part, where)
    elif type(kind) is tuple:
        check(value in kind[1:], f"{where}: {value} is none of {kind[1:]}")
    elif kind == BOOL:
        check(value is True, f"{where}: {value!r} is not true")
    else:
        check(type(value) is str and value, f"{where}: {value!r} is no string that says something")
        check(_SCALARS[kind](value), f"{where}: {value!r} is no {kind}")


def _is_base64(text: str) -> bool:
    try:
        return base64.b64encode(base64.b64decode(text, validate=True)).decode() == text
    except ValueError:
        return False


_SCALARS = {
    INT: lambda text: _SIGNED.fullmatch(text) is not None and -(2**63) <= int(text) < 2**63,
    UINT: lambda text: _UNSIGNED.fullmatch(text) is not None and int(text) < 2**64,
    BYTES: _is_base64,
    TEXT: lambda text: True,
}


def check_error(status: int, content_type: str, text: bytes) -> int:
    """That this is an error in etcd's shape, with the status of its code; the code."""
    told = parse(text)
    check(content_type == JSON, f"an error as {content_type}")
    check(list(told) == ["error", "code", "message", "details"], f"an error has the fields {list(told)}")
    check(told["details"] == [] and told["error"] == told["message"], f"an error's details or texts: {told}")
    code = told["code"]
    _check_words(told["message"])
    check(type(code) is int and STATUSES.get(code) == status, f"code {code} with status {status}")
    return int(code)


def check_error_in_stream(told: Any, status: int | None) -> int:
    """The same of an error that is a line of a stream, or all of it (then with its status); the code."""
    check(type(told) is dict and list(told) == ["error"], f"no error of a stream: {told}")
    error = told["error"]
    names = ["grpc_code", "http_code", "message", "http_status"]
    check(type(error) is dict and list(error) == names, f"an error of a stream: {error}")
    code = error["grpc_code"]
    _check_words(error["message"])
    check(STATUSES.get(code) == error["http_code"], f"code {code} with status {error['http_code']}")
    check(status in (None, error["http_code"]), f"status {status} for one of {error['http_code']}")
    return int(code)


def _check_words(message: object) -> None:
    check(isinstance(message, str) and 0 < len(message) <= MESSAGE_MAX, f"an error's words: {message!r:.400}")
