"""The rules that the suite checks: one row per rule, with what we chose to do.

The first part of an id is the group: 4.1 message parsing and framing, 4.2 forwarding, 4.3 what the HTTP parser
underneath lets through and we must not, 4.4 classes of request smuggling. A row without cases says why.
"""

from dataclasses import dataclass

GROUPS = {
    "4.1": "Message parsing and framing (RFC 9112)",
    "4.2": "Forwarding (RFC 9110)",
    "4.3": "What a lenient parser lets through",
    "4.4": "Request smuggling and desynchronisation",
}


@dataclass(frozen=True, slots=True)
class Row:
    """One rule. `not_applicable` is the reason for having no case, "" = there must be one."""

    id: str
    rule: str
    ours: str
    not_applicable: str = ""

    @property
    def group(self) -> str:
        """The key in GROUPS."""
        return self.id.partition("/")[0]


_PARSING = (
    ("9112-2.2-leading-empty-lines", "Empty lines before a request line", "up to 4 CRLF skipped, the fifth is 400"),
    ("9112-2.2-bare-lf", "A line ended by LF alone", "400 at once, in head, chunk lines and trailers; 502 upstream"),
    ("9112-2.2-bare-cr", "CR that is not followed by LF", "400; 502 upstream"),
    ("9112-2.2-space-before-first-field", "White space in front of the first field line", "400"),
    ("9112-2.3-version", "HTTP versions", "1.0 and 1.1 served, any other well-formed one 505, a malformed one 400"),
    ("9112-3-long-target", "Request lines without end", "414 above the target limit; an unknown method 501"),
    ("9112-3-whitespace-in-target", "White space or controls in the target", "400, never repaired"),
    ("9112-3.2-host", "Host missing, repeated, empty or malformed", "400; HTTP/1.0 may lack it"),
    ("9112-3.2.2-absolute-form", "Absolute-form targets", "forwarded in origin-form; 400 when Host differs"),
    ("9112-3.2.3-authority-form", "Authority-form outside CONNECT", "400"),
    ("9112-3.2.4-asterisk-form", "Asterisk-form", "only with OPTIONS, also for OPTIONS of an authority without path"),
    ("9112-3.2-fragment", "A fragment in the target", "400"),
    ("9112-5.1-space-before-colon", "White space between name and colon", "400; 502 upstream"),
    ("9112-5.2-obs-fold", "Folded field lines", "400; 502 upstream"),
    ("9110-5.5-field-value", "Octets in field values", "controls 400; tabs and obs-text travel unchanged"),
    ("9110-5.1-field-name", "Octets in field names", "tokens only; '_' forms of our own names dropped or 400"),
    ("9112-6.1-te-and-cl", "Transfer-Encoding beside Content-Length", "400 and close; 502 upstream"),
    ("9112-6.1-te-on-http10", "Transfer-Encoding in HTTP/1.0", "400 and close; 502 upstream"),
    ("9112-6.1-unknown-coding", "Transfer codings other than one chunked", "501, or 400 where the grammar is broken"),
    ("9112-6.1-te-where-forbidden", "Transfer-Encoding in 1xx and 204", "removed; no body; connection not reused"),
    ("9112-6.3-chunked-not-final", "A request whose last coding is not chunked", "400 or 501, and close"),
    ("9112-6.3-invalid-cl", "Content-Length that is no plain number", "400 and close; 502 upstream"),
    ("9112-6.3-repeated-cl", "Content-Length twice, equal or not", "400 and close; 502 upstream"),
    ("9112-6.3-incomplete-body", "A response that ends too early", "the client sees a broken end, never a clean one"),
    ("9112-6.3-close-delimited", "A response that ends with its connection", "chunked to 1.1, closed to 1.0"),
    ("9112-7.1-chunk-size", "Chunk sizes", "hexadecimal digits only and bounded, else 400"),
    ("9112-7.1.1-chunk-extension", "Chunk extensions", "read strictly, bounded, never forwarded"),
    ("9112-7.1.2-trailers", "Trailer fields", "kept apart; forwarded to clients that sent TE: trailers"),
    ("9112-7.1.3-rechunk", "Chunked bodies on their way", "decoded and chunked anew"),
    ("9112-9.2-unsolicited", "Bytes on an idle upstream connection", "connection ended, bytes never used"),
    ("9112-9.3-http10-persistence", "Keep-alive with HTTP/1.0 clients", "closed, unless the listener allows it"),
    ("9112-9.3.2-pipelining", "Several requests at once", "served one after the other, answers in order"),
    ("9112-9.6-close", "Connection: close", "answered, closed in stages; what follows is ignored"),
)

_FORWARDING = (
    ("9110-7.6.1-connection", "Connection and what it names", "removed both ways; protected fields stay"),
    ("9110-7.6.3-via", "Via", "appended to requests; our own name twice is 508"),
    ("9110-7.6.2-max-forwards", "Max-Forwards", "OPTIONS answered at 0, else decremented; TRACE 405"),
    ("9110-7.7-transformation", "Path, query and content on their way", "unchanged, byte for byte"),
    ("9110-5.3-field-order", "Lines of one name", "stay in order and apart, both ways"),
    ("9110-6.6.1-date", "Date in responses", "added where it is missing"),
    ("9110-10.1.1-expect", "Expect", "100-continue forwarded, anything else 417, ignored in HTTP/1.0"),
    ("9110-15.2-interim", "Responses 1xx", "forwarded, none to HTTP/1.0, at most 20"),
    ("9110-7.8-upgrade", "Upgrade", "WebSocket only, and only after a 101 that matches"),
    ("9110-9.3.6-connect", "CONNECT", "405"),
    ("9110-9.3.2-bodiless", "HEAD, 204, 304", "no body whatever the fields say"),
    ("9110-15.3.6-205", "205", "sent with Content-Length: 0; content in it is 502"),
    ("9110-8.6-content-length", "Content-Length on its way", "forwarded when right, written anew when not canonical"),
    ("9110-10.1.4-te", "TE", "only trailers is passed on, named in Connection"),
    ("early-response", "A final answer before the request is complete", "relayed with close; upstream not reused"),
    ("half-close", "FIN behind a complete request", "cancels; served when the listener says half_close: allow"),
    ("9110-9.2.2-retry", "Requests lost on a reused connection", "idempotent ones once more on a fresh one"),
    ("9110-7.2-host", "Host on its way", "kept; a pool may set its backend's or a fixed one"),
    ("error-form", "Answers of our own", "closed after framing errors, sized, short, without reflection"),
    ("9111-cache", "Caching", "none: every request reaches a backend"),
    ("9209-proxy-status", "Proxy-Status", "on our own 502 to 504, with the reason"),
    ("x-forwarded", "X-Forwarded-*, Forwarded and X-Request-Id", "replaced; kept and extended from trusted peers"),
    ("limits", "Limits on heads, bodies and times", "408, 413, 414, 431, and close"),
)

_PARSER_HOLES = (
    ("strict-list", "What strict parsers refuse by themselves", "stays refused"),
    ("http09", "Request lines without a version", "400"),
    ("http2-version", "HTTP/2.0 in a request line", "505"),
    ("foreign-protocol", "RTSP, ICE and other protocols", "400 or 501"),
    ("te-on-http10", "Transfer-Encoding in HTTP/1.0", "400"),
    ("comma-chunked", "Transfer-Encoding: ,chunked", "refused"),
    ("cl-leading-zero", "Content-Length: 010", "400"),
    ("obs-text", "Octets 0x80-0xff around values", "never trimmed, never digits"),
    ("pri", "The HTTP/2 preface", "400 or 505, and close"),
    ("coding-list", "Lists of codings, two lines of them", "501 or 400"),
    ("host", "Host checks", "as 4.1/9112-3.2-host"),
    ("line-oddities", "GET *, fragments, double spaces", "400"),
    ("no-limits", "Sizes without bound", "bounded: 414, 431, 400"),
    ("fragmented-target", "Targets that arrive in pieces", "routed as a whole"),
    ("trailers-as-fields", "Trailers that repeat fields of the head", "never override them"),
    ("upgrade-ignores-framing", "Upgrade with a body, Upgrade unknown", "400; offer dropped, framing kept"),
    ("data-after-close", "Bytes behind a request with Connection: close", "the request is answered"),
    ("proxy-connection", "Proxy-Connection", "removed, without effect"),
    ("head-response", "Responses to HEAD", "end with their head"),
    ("no-eof", "Responses that end with their connection", "told apart from broken ones"),
    ("interim-whole-messages", "1xx before the response", "not taken for the response"),
    ("204-with-length", "204 and 1xx with framing fields", "502 for content; fields removed"),
    ("extra-bytes", "Bytes behind a response", "never a second response"),
    ("response-coding", "Responses with other codings", "502"),
    ("double-slash-redirect", "Redirects of paths that begin with //", "never to another host"),
)

_SMUGGLING = (
    ("cl-te", "CL.TE and TE.CL", "400, close, nothing forwarded"),
    ("te-te", "TE.TE, obfuscated codings", "400 or 501, close, nothing forwarded"),
    ("cl-cl", "CL.CL", "400, close, nothing forwarded"),
    ("te0-cl0", "Bodies where none is usual; origins that ignore them", "framing exact; connection not reused"),
    ("te-on-http10", "Transfer-Encoding and keep-alive in HTTP/1.0", "400"),
    ("chunk-line-ends", "TERM.EXT and EXT.TERM", "400, extensions never forwarded"),
    ("chunk-spill", "Wrong ends of chunk data", "400"),
    ("chunk-size", "Chunk sizes that overflow or carry signs", "400"),
    ("ctl-in-field", "NUL, CR, LF and controls in fields", "400"),
    ("colon", "White space before the colon, no colon, no name", "400"),
    ("obs-fold", "Folded lines", "400"),
    ("http09", "Downgrade to HTTP/0.9", "400"),
    ("upgrade-body", "Upgrade with body, h2c, CONNECT with body", "400, dropped, 405"),
    ("premature-tunnel", "An upgrade that the backend did not grant", "stays HTTP, what follows is parsed"),
    ("authority", "Two opinions about the host", "400"),
    ("connection-nominates", "Connection naming protected fields", "they stay"),
    ("trailer-fields", "Trailers with framing, routing or credentials", "dropped"),
    ("expect", "Variants of Expect", "417 or ignored, framing unaffected"),
    ("after-close", "A request behind Connection: close", "ignored"),
    ("response-splitting", "Responses that try to be two", "502, close"),
    ("bodiless-with-body", "Bodies behind HEAD, 304 and 204", "connection ended"),
    ("pause-based", "Bodies withheld from an origin that answers at once", "answered with close"),
    ("path-confusion", "Paths that read differently", "matched normalised; %00 and backslash 400"),
    ("status-text", "Status lines without reason", "accepted, sent with ours"),
    ("answer-before-error", "A broken request behind a complete one", "the complete one is answered first"),
    ("underscore-twins", "Names that backends fold onto ours", "dropped; framing ones 400"),
)

ROWS: dict[str, Row] = {
    f"{group}/{name}": Row(f"{group}/{name}", rule, ours)
    for group, rows in (("4.1", _PARSING), ("4.2", _FORWARDING), ("4.3", _PARSER_HOLES), ("4.4", _SMUGGLING))
    for name, rule, ours in rows
}
ROWS["4.4/h2"] = Row(
    "4.4/h2",
    "HTTP/2 downgrades: H2.CL, H2.TE, injected fields",
    "not applicable",
    "HTTP/2 is not built: listeners offer only http/1.1 by ALPN, and the preface is refused (4.3/pri)",
)
