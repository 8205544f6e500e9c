"""Where a request ends: Content-Length, Transfer-Encoding, and both."""

from tests.conformance.build import (
    OK,
    OK_CLOSE,
    REPLY,
    TWO,
    Reply,
    case,
    chunked,
    passes,
    refused,
    relayed,
    request,
    sent_on,
)
from tests.conformance.model import Case, Forwarded, Relayed

_CL = "4.1/9112-6.3-invalid-cl 4.3/strict-list"
_CLCL = "4.1/9112-6.3-repeated-cl 4.4/cl-cl"
_TECL = "4.1/9112-6.1-te-and-cl 4.4/cl-te"
_TETE = "4.4/te-te"
_CODING = "4.1/9112-6.1-unknown-coding 4.3/coding-list"
_SMUGGLED = b"GET /smuggled HTTP/1.1\r\nHost: a\r\n\r\n"


def _post(*fields: str, body: bytes = b"", line: str = "POST /in HTTP/1.1") -> bytes:
    return request(line, *fields, body=body)


def _lengths() -> list[Case]:
    invalid = {
        "empty": "",
        "plus": "+5",
        "minus": "-5",
        "hex": "0x5",
        "inner-space": "5 5",
        "list-equal": "5, 5",
        "list": "5,6",
        "semicolon": "5;",
        "point": "5.0",
        "exponent": "5e0",
        "underscore": "0_5",
        "quoted": '"5"',
        "letter": "5a",
        "word": "five",
        "vt": "\x0b5",
        "ff": "5\x0c",
        "tab-inside": "5\t5",
        "two-64": "18446744073709551616",
        "two-64-and-5": "18446744073709551621",
        "huge": "9" * 60,
        "comma-first": ",5",
        "comma-last": "5,",
        "minus-zero": "-0",
    }
    zeros = ("05", "00", "005", "010", "0000000000000000005")
    return [
        *(
            refused(f"cl-{name}", _CL, _post(f"Content-Length: {value}", body=b"hello"))
            for name, value in invalid.items()
        ),
        *(
            refused(
                f"cl-leading-zero-{n}",
                "4.3/cl-leading-zero 4.1/9112-6.3-invalid-cl",
                _post(f"Content-Length: {value}", body=b"hello"),
            )
            for n, value in enumerate(zeros)
        ),
        refused("cl-equal-lines", _CLCL, _post("Content-Length: 5", "Content-Length: 5", body=b"hello")),
        refused("cl-different-lines", _CLCL, _post("Content-Length: 5", "Content-Length: 6", body=b"hello")),
        refused("cl-different-case", _CLCL, _post("Content-Length: 5", "content-length: 0", body=b"hello")),
        refused("cl-zero-and-five", _CLCL, _post("Content-Length: 0", "Content-Length: 39", body=_SMUGGLED)),
        refused("cl-apart", _CLCL, _post("Content-Length: 5", "X: 1", "Content-Length: 5", body=b"hello")),
        refused("cl-equal-lines-get", _CLCL, _post("Content-Length: 0", "Content-Length: 0", line="GET / HTTP/1.1")),
        refused(
            "cl-space-colon", "4.1/9112-5.1-space-before-colon 4.4/colon", _post("Content-Length : 5", body=b"hello")
        ),
        refused("cl-http10-invalid", _CL, _post("Content-Length: +5", body=b"hello", line="POST / HTTP/1.0")),
    ]


def _with_length(name: str, rows: str, line: str, *fields: str, body: bytes, **changes: str) -> Case:
    sent = sent_on(changes.get("out", line), *fields, body=body, framing="length")
    return case(name, rows, request(line, *fields, body=body), sent, OK)


def _good_lengths() -> list[Case]:
    row = "4.2/9110-8.6-content-length"
    usual = "4.4/te0-cl0"
    return [
        _with_length("length-5", row, "POST /in HTTP/1.1", "Content-Length: 5", body=b"hello"),
        _with_length("length-0", row, "POST /in HTTP/1.1", "Content-Length: 0", body=b""),
        _with_length("length-name-case", row, "POST /in HTTP/1.1", "content-length: 5", "X: 1", body=b"hello"),
        _with_length("length-binary", row, "PUT /in HTTP/1.1", "Content-Length: 6", body=b"\x00\r\n\r\n\xff"),
        _with_length(
            "length-body-like-request", row, "POST / HTTP/1.1", f"Content-Length: {len(_SMUGGLED)}", body=_SMUGGLED
        ),
        _with_length("length-get", usual, "GET / HTTP/1.1", "Content-Length: 5", body=b"hello"),
        _with_length("length-get-0", usual, "GET / HTTP/1.1", "Content-Length: 0", body=b""),
        _with_length("length-options", usual, "OPTIONS / HTTP/1.1", "Content-Length: 5", body=b"hello"),
        _with_length("length-delete", usual, "DELETE / HTTP/1.1", "Content-Length: 5", body=b"hello"),
        case(
            "length-head",
            f"{usual} 4.2/9110-9.3.2-bodiless",
            request("HEAD / HTTP/1.1", "Content-Length: 5", body=b"hello"),
            sent_on("HEAD / HTTP/1.1", "Content-Length: 5", body=b"hello", framing="length"),
            _head_ok(),
            script=REPLY[:-2],
        ),
        case(
            "length-trailing-space",
            row,
            _post("Content-Length: 5 ", "X: 1", body=b"hello"),
            sent_on("POST /in HTTP/1.1", "X: 1", before=("Content-Length: 5",), body=b"hello", framing="length"),
            OK,
            note="a value with white space around it is written anew",
        ),
        case(
            "length-large",
            row,
            _post("Content-Length: 200000", body=b"0123456789" * 20_000),
            sent_on("POST /in HTTP/1.1", "Content-Length: 200000", body=b"0123456789" * 20_000, framing="length"),
            OK,
            splits=False,
        ),
        case(
            "length-http10",
            row,
            request("POST /in HTTP/1.0", "Content-Length: 5", body=b"hello"),
            sent_on("POST /in HTTP/1.1", "Content-Length: 5", body=b"hello", framing="length", via="1.0 edge"),
            OK_CLOSE,
            "closed",
        ),
        passes("length-absent-post", row, "POST / HTTP/1.1", note="without framing fields there is no body"),
        case(
            "length-then-next",
            f"{row} 4.1/9112-9.3.2-pipelining 4.4/te0-cl0",
            _post("Content-Length: 5", body=b"hello") + request("GET /second HTTP/1.1"),
            (
                sent_on("POST /in HTTP/1.1", "Content-Length: 5", body=b"hello", framing="length"),
                sent_on("GET /second HTTP/1.1"),
            ),
            (OK, OK),
            script=TWO,
        ),
    ]


def _head_ok() -> Relayed:
    return relayed(method="HEAD", body=b"", framing="none")


def _both() -> list[Case]:
    body = b"0\r\n\r\n" + _SMUGGLED
    variants = {
        "cl-te": ("Content-Length: 5", "Transfer-Encoding: chunked"),
        "te-cl": ("Transfer-Encoding: chunked", "Content-Length: 5"),
        "cl-te-case": ("content-length: 44", "transfer-encoding: Chunked"),
        "cl-0-te": ("Content-Length: 0", "Transfer-Encoding: chunked"),
        "te-identity-cl": ("Transfer-Encoding: identity", "Content-Length: 5"),
        "te-x-cl": ("Transfer-Encoding: xchunked", "Content-Length: 5"),
        "te-empty-cl": ("Transfer-Encoding:", "Content-Length: 5"),
        "cl-bad-te": ("Content-Length: x", "Transfer-Encoding: chunked"),
        "te-nominated": ("Connection: Transfer-Encoding", "Transfer-Encoding: chunked", "Content-Length: 5"),
        "cl-nominated": ("Connection: Content-Length", "Content-Length: 5", "Transfer-Encoding: chunked"),
        "te-apart-cl": ("Transfer-Encoding: chunked", "X: 1", "Y: 2", "Content-Length: 5"),
    }
    return [
        *(refused(f"both-{name}", _TECL, _post(*fields, body=body), 400, 501) for name, fields in variants.items()),
        refused(
            "both-get",
            _TECL,
            _post("Content-Length: 5", "Transfer-Encoding: chunked", body=body, line="GET / HTTP/1.1"),
        ),
        refused(
            "both-http10",
            f"{_TECL} 4.4/te-on-http10",
            _post("Content-Length: 5", "Transfer-Encoding: chunked", body=body, line="POST / HTTP/1.0"),
        ),
    ]


_obfuscated = {
    "xchunked": "xchunked",
    "chunkedx": "chunkedx",
    "vt-front": "\x0bchunked",
    "vt-behind": "chunked\x0b",
    "ff": "\x0cchunked",
    "nul": "chunked\x00",
    "nul-front": "\x00chunked",
    "quoted": '"chunked"',
    "single": "'chunked'",
    "twice": "chunked, chunked",
    "trailing-comma": "chunked,",
    "parameter": "chunked;a=b",
    "identity-behind": "chunked, identity",
    "identity": "identity",
    "empty": "",
    "space-inside": "chu nked",
    "plural": "chunks",
    "bom": "\xef\xbb\xbfchunked",
    "control": "chunked\x01",
    "colon": ": chunked",
    "slash": "chunked/1",
    "cr": "\rchunked",
    "y": "chunked\x7f",
}
_lists = {
    "gzip-chunked": "gzip, chunked",
    "identity-chunked": "identity, chunked",
    "deflate": "deflate, chunked",
    "unknown-chunked": "foo, chunked",
    "tabs": "\tgzip\t,\tchunked",
}
_not_final = {
    "gzip": "gzip",
    "chunked-gzip": "chunked, gzip",
    "deflate": "deflate",
    "foo": "foo",
    "compress": "compress",
}
_two = {
    "equal": ("Transfer-Encoding: chunked", "Transfer-Encoding: chunked"),
    "identity-first": ("Transfer-Encoding: identity", "Transfer-Encoding: chunked"),
    "identity-second": ("Transfer-Encoding: chunked", "Transfer-Encoding: identity"),
    "x-second": ("Transfer-Encoding: chunked", "Transfer-encoding: x"),
    "x-first": ("Transfer-Encoding: x", "transfer-encoding: chunked"),
    "empty-second": ("Transfer-Encoding: chunked", "Transfer-Encoding:"),
    "apart": ("Transfer-Encoding: chunked", "X: 1", "TRANSFER-ENCODING: xchunked"),
}
_body = b"5\r\nhello\r\n0\r\n\r\n" + _SMUGGLED
_comma = f"4.3/comma-chunked {_TETE}"
_CODINGS_CASES: list[Case] = [
    *(
        refused(f"te-{name}", f"{_TETE} 4.3/strict-list", _post(f"Transfer-Encoding: {value}", body=_body), 400, 501)
        for name, value in _obfuscated.items()
    ),
    *(
        refused(f"te-list-{name}", _CODING, _post(f"Transfer-Encoding: {value}", body=_body), 501, 400)
        for name, value in _lists.items()
    ),
    *(
        refused(
            f"te-not-final-{name}",
            "4.1/9112-6.3-chunked-not-final 4.1/9112-6.1-unknown-coding",
            _post(f"Transfer-Encoding: {value}", body=_body),
            400,
            501,
        )
        for name, value in _not_final.items()
    ),
    *(
        refused(f"te-two-{name}", f"{_TETE} {_CODING}", _post(*fields, body=_body), 400, 501)
        for name, fields in _two.items()
    ),
    refused("te-unknown", "4.1/9112-6.1-unknown-coding", _post("Transfer-Encoding: foo", body=_body), 501, 400),
    refused("te-comma-front", _comma, _post("Transfer-Encoding: ,chunked", body=_body), 400, 501),
    refused("te-comma-space-front", _comma, _post("Transfer-Encoding: , chunked", body=_body), 400, 501),
    refused("te-commas", _comma, _post("Transfer-Encoding: ,,chunked,,", body=_body), 400, 501),
    refused("te-colon-space", f"{_TETE} 4.4/colon", _post("Transfer-Encoding : chunked", body=_body)),
    refused("te-colon-tab", f"{_TETE} 4.4/colon", _post("Transfer-Encoding\t: chunked", body=_body)),
    refused("te-folded", f"{_TETE} 4.4/obs-fold", _post("Transfer-Encoding:", " chunked", body=_body)),
    refused("te-nul-name", f"{_TETE} 4.4/ctl-in-field", _post("Transfer-Encoding\x00: chunked", body=_body)),
    refused("te-behind-cr", f"{_TETE} 4.1/9112-2.2-bare-cr", _post("X: y\rTransfer-Encoding: chunked", body=_body)),
    refused("te-behind-lf", f"{_TETE} 4.1/9112-2.2-bare-lf", _post("X: y\nTransfer-Encoding: chunked", body=_body)),
    refused(
        "te-http10",
        "4.1/9112-6.1-te-on-http10 4.3/te-on-http10 4.4/te-on-http10",
        _post("Transfer-Encoding: chunked", body=_body, line="POST / HTTP/1.0"),
    ),
    refused(
        "te-http10-keep-alive",
        "4.1/9112-6.1-te-on-http10 4.3/te-on-http10 4.4/te-on-http10",
        _post("Transfer-Encoding: chunked", "Connection: keep-alive", body=_body, line="POST / HTTP/1.0"),
        variant="lenient",
    ),
    refused(
        "te-http10-identity",
        "4.1/9112-6.1-te-on-http10 4.4/te-on-http10",
        _post("Transfer-Encoding: identity", body=b"hello", line="POST / HTTP/1.0"),
        400,
        501,
    ),
]


def _good_chunked() -> list[Case]:
    row = "4.1/9112-7.1.3-rechunk"

    def chunked_case(name: str, rows: str, line: str, coding: str = "Transfer-Encoding: chunked") -> Case:
        sent: Forwarded = sent_on(line, body=b"hello", framing="chunked")
        return case(name, rows, request(line, coding, body=chunked(b"hello")), sent, OK)

    return [
        chunked_case("chunked-post", row, "POST /in HTTP/1.1"),
        chunked_case("chunked-upper", f"{row} {_TETE}", "POST /in HTTP/1.1", "TRANSFER-ENCODING: CHUNKED"),
        chunked_case("chunked-no-space", f"{row} {_TETE}", "POST /in HTTP/1.1", "Transfer-Encoding:chunked"),
        refused(
            "te-space-behind",
            _TETE,
            _post("Transfer-Encoding: chunked \t", body=chunked(b"hello")),
            400,
            501,
            note="RFC 9112 would allow the white space; refused, because others do not see through it",
        ),
        chunked_case(
            "chunked-nominated",
            f"{row} 4.4/connection-nominates",
            "POST /in HTTP/1.1",
            "Connection: Transfer-Encoding\r\nTransfer-Encoding: chunked",
        ),
        chunked_case("chunked-get", f"{row} 4.4/te0-cl0", "GET /in HTTP/1.1"),
        chunked_case("chunked-options", f"{row} 4.4/te0-cl0", "OPTIONS /in HTTP/1.1"),
        case(
            "chunked-head",
            f"{row} 4.4/te0-cl0",
            request("HEAD / HTTP/1.1", "Transfer-Encoding: chunked", body=chunked(b"hello")),
            sent_on("HEAD / HTTP/1.1", body=b"hello", framing="chunked"),
            _head_ok(),
            script=REPLY[:-2],
        ),
        case(
            "chunked-then-next",
            f"{row} 4.4/cl-te 4.1/9112-9.3.2-pipelining",
            _post("Transfer-Encoding: chunked", body=chunked(b"hello")) + request("GET /second HTTP/1.1"),
            (sent_on("POST /in HTTP/1.1", body=b"hello", framing="chunked"), sent_on("GET /second HTTP/1.1")),
            (OK, OK),
            script=(Reply((REPLY,)), Reply((REPLY,))),
        ),
        case(
            "chunked-large",
            row,
            _post("Transfer-Encoding: chunked", body=chunked(*[b"0123456789" * 1000] * 20)),
            sent_on("POST /in HTTP/1.1", body=b"0123456789" * 20_000, framing="chunked"),
            OK,
            splits=False,
        ),
    ]


CASES = [*_lengths(), *_good_lengths(), *_both(), *_CODINGS_CASES, *_good_chunked()]
