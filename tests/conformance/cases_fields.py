"""Field lines: names, values, colons, folds, counts and twins with an underscore."""

from tests.conformance.build import DATE, case, passes, refused, relayed, reply, request, sent_on
from tests.conformance.model import Case

_NAME = "4.1/9110-5.1-field-name 4.3/strict-list"
_VALUE = "4.1/9110-5.5-field-value 4.4/ctl-in-field 4.3/strict-list"
_COLON = "4.1/9112-5.1-space-before-colon 4.4/colon"
_FOLD = "4.1/9112-5.2-obs-fold 4.4/obs-fold 4.3/strict-list"
_TWIN = "4.1/9110-5.1-field-name 4.4/underscore-twins"


def _raw(*field_lines: bytes) -> bytes:
    return b"GET / HTTP/1.1\r\nHost: a\r\n" + b"".join(line + b"\r\n" for line in field_lines) + b"\r\n"


def _names() -> list[Case]:
    bad = (
        b"X(Y: 1",
        b"X Y: 1",
        b'"X": 1',
        b"X\x80: 1",
        b"X@Y: 1",
        b"X/Y: 1",
        b"X=Y: 1",
        b"X,Y: 1",
        b"X;Y: 1",
        b"X\x7fY: 1",
        b"X[Y]: 1",
        b"\xc3\xa9: 1",
        b"X{Y}: 1",
    )
    colon = {
        "space": b"X : 1",
        "tab": b"X\t: 1",
        "none": b"X",
        "no-name": b": 1",
        "te": b"Transfer-Encoding : chunked",
        "cl": b"Content-Length : 5",
        "host": b"Host : b",
        "none-word": b"X y z",
    }
    return [
        *(refused(f"name-{n}", _NAME, _raw(line)) for n, line in enumerate(bad)),
        *(refused(f"colon-{name}", _COLON, _raw(line)) for name, line in colon.items()),
        passes("name-token", _NAME, "GET / HTTP/1.1", "!#$%&'*+-.^`|~09azAZ: 1"),
        passes("name-case", _NAME, "GET / HTTP/1.1", "x-MiXeD: 1", "ACCEPT: */*", "accept: text/plain"),
        passes("name-no-space", _NAME, "GET / HTTP/1.1", "X:1", "Y:", "Z:  2\t"),
        passes("name-underscore", _TWIN, "GET / HTTP/1.1", "X_Custom: 1", "my_field: 2"),
        passes("name-underscore-beside-dash", _TWIN, "GET / HTTP/1.1", "X-Custom: 1", "X_Custom: 2"),
        refused("twin-te", f"{_TWIN} 4.4/te-te", _raw(b"Transfer_Encoding: chunked")),
        refused("twin-cl", f"{_TWIN} 4.4/cl-cl", _raw(b"Content_Length: 5")),
        refused(
            "twin-te-beside-te",
            f"{_TWIN} 4.4/te-te",
            _raw(b"Transfer-Encoding: chunked", b"Transfer_Encoding: x") + b"0\r\n\r\n",
        ),
        refused("twin-cl-beside-cl", f"{_TWIN} 4.4/cl-cl", _raw(b"content_length: 7", b"Content-Length: 0")),
        *(
            passes(
                f"twin-{n}", f"{_TWIN} 4.2/x-forwarded", "GET / HTTP/1.1", "A: 1", line, "B: 2", kept=("A: 1", "B: 2")
            )
            for n, line in enumerate(
                (
                    "X_Forwarded_For: 6.6.6.6",
                    "x_forwarded_proto: https",
                    "X_FORWARDED_HOST: evil",
                    "X_Forwarded_Port: 1",
                    "X-Forwarded_For: 6.6.6.6",
                    "X_Forwarded-For: 6.6.6.6",
                    "X_Request_Id: evil",
                    "X_Real_IP: 6.6.6.6",
                    "X-Real_IP: 6.6.6.6",
                    "Proxy_Connection: close",
                    "Keep_Alive: 5",
                )
            )
        ),
    ]


def _values() -> list[Case]:
    controls = [0x00, 0x01, 0x07, 0x08, 0x0B, 0x0C, 0x0E, 0x1B, 0x1F, 0x7F]
    text = "4.1/9110-5.5-field-value 4.3/obs-text"
    return [
        *(refused(f"value-{octet:02x}", _VALUE, _raw(b"X: a" + bytes([octet]) + b"b")) for octet in controls),
        refused("value-nul-first", _VALUE, _raw(b"X: \x00")),
        refused("value-nul-name", _VALUE, _raw(b"X\x00: a")),
        passes("value-tab", "4.1/9110-5.5-field-value", "GET / HTTP/1.1", "X: a\tb"),
        passes("value-empty", "4.1/9110-5.5-field-value", "GET / HTTP/1.1", "X:", "Y: ", "Z:\t"),
        passes("value-obs-text", text, "GET / HTTP/1.1", "User: \x85admin\xa0", "Y: \xff\x80", "Z: na\xc3\xafve"),
        passes("value-punctuation", "4.1/9110-5.5-field-value", "GET / HTTP/1.1", "X: \"(),/:;<=>?@[\\]{}' ~`"),
        passes(
            "value-long", "4.1/9110-5.5-field-value 4.3/no-limits", "GET / HTTP/1.1", "X: " + "v" * 9000, splits=False
        ),
        refused("obs-text-cl", f"{text} 4.1/9112-6.3-invalid-cl", _raw(b"Content-Length: 5\xa0") + b"hello"),
        refused("obs-text-cl-front", f"{text} 4.1/9112-6.3-invalid-cl", _raw(b"Content-Length: \x855") + b"hello"),
        refused(
            "obs-text-digit", f"{text} 4.1/9112-6.3-invalid-cl", _raw("Content-Length: \u0665".encode()) + b"hello"
        ),
        refused("obs-text-te", f"{text} 4.4/te-te", _raw(b"Transfer-Encoding: chunked\xa0") + b"0\r\n\r\n", 400, 501),
        passes("obs-text-connection", text, "GET / HTTP/1.1", "Connection: \xa0close", kept=()),
    ]


def _folds() -> list[Case]:
    folds = {
        "space": (b"X: a", b" b"),
        "tab": (b"X: a", b"\tb"),
        "empty": (b"X:", b" a"),
        "blank": (b"X: a", b" "),
        "te": (b"Transfer-Encoding:", b" chunked"),
        "te-tail": (b"Transfer-Encoding: chunked", b" , identity"),
        "cl": (b"Content-Length:", b" 5"),
        "looks-like-field": (b"X: a", b" Content-Length: 5"),
        "colon": (b"X: a", b" : b"),
    }
    return [
        *(refused(f"fold-{name}", _FOLD, _raw(*field_lines)) for name, field_lines in folds.items()),
        refused("fold-host", _FOLD, b"GET / HTTP/1.1\r\nHost:\r\n a\r\n\r\n"),
        refused("fold-first", _FOLD, b"GET / HTTP/1.1\r\n X: a\r\nHost: a\r\n\r\n"),
    ]


def _counts_and_order() -> list[Case]:
    limits = "4.3/no-limits 4.2/limits"
    order = "4.2/9110-5.3-field-order"
    many = [f"X-{n}: {n}" for n in range(19)]
    lots = [f"X-{n}: {n}" for n in range(99)]
    cookies = ("Set-Cookie: a=1; Path=/", "X: 1", "Set-Cookie: b=2, c", "set-cookie: a=3", "X: 2")
    return [
        passes("fields-at-limit", limits, "GET / HTTP/1.1", *many, variant="tight"),
        refused("fields-over-limit", limits, request("GET / HTTP/1.1", *many, "Y: 1"), 431, variant="tight"),
        passes("fields-at-default-limit", limits, "GET / HTTP/1.1", *lots, splits=False),
        refused("fields-over-default-limit", limits, request("GET / HTTP/1.1", *lots, "Y: 1"), 431, splits=False),
        refused(
            "head-over-limit", limits, request("GET / HTTP/1.1", "X: " + "v" * 2048), 431, variant="tight", splits=False
        ),
        refused(
            "head-over-limit-unfinished",
            limits,
            b"GET / HTTP/1.1\r\nHost: a\r\nX: " + b"v" * 3000,
            431,
            variant="tight",
            splits=False,
        ),
        refused("head-over-default-limit", limits, request("GET / HTTP/1.1", "X: " + "v" * 66_000), 431, splits=False),
        refused(
            "head-of-many-lines-over-default-limit",
            limits,
            request("GET / HTTP/1.1", *["X: 1"] * 5000),
            431,
            splits=False,
        ),
        passes(
            "order-request", order, "GET / HTTP/1.1", "B: 1", "A: 1", "b: 2", "A: 2", "B: 3", "Cookie: x", "Cookie: y"
        ),
        case(
            "order-set-cookie",
            order,
            request(),
            sent_on(),
            relayed("HTTP/1.1 200 OK", DATE, *cookies, "Content-Length: 2"),
            script=reply("HTTP/1.1 200 OK", DATE, *cookies, "Content-Length: 2", body=b"ok"),
        ),
        case(
            "order-many-in-response",
            f"{order} 4.3/no-limits",
            request(),
            sent_on(),
            relayed("HTTP/1.1 200 OK", DATE, "Content-Length: 2", *lots),
            script=reply("HTTP/1.1 200 OK", DATE, "Content-Length: 2", *lots, body=b"ok"),
            splits=False,
        ),
    ]


CASES = [*_names(), *_values(), *_folds(), *_counts_and_order()]
