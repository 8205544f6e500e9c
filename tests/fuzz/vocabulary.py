"""The words of the grammar: values that are lawful, values that look so, and values that must not pass."""

METHODS = (b"GET",) * 8 + (b"POST",) * 6 + (b"HEAD", b"PUT", b"DELETE", b"OPTIONS", b"OPTIONS", b"PATCH", b"PROPFIND")
ODD_METHODS = (
    b"get", b"CONNECT", b"TRACE", b"PRI", b"BREW", b"GE T", b"", b"G@T", b"SOURCE", b"SETUP", b"A" * 40, b"M-SEARCH",
    b"GETT", b"QUERY", b"\x16\x03\x01",
)  # fmt: skip
TARGETS = (
    b"/", b"/", b"/a", b"/a/b?c=d", b"/some/where", b"//evil/x", b"/a%2Fb", b"/%7Euser?x=%zz", b"/a;b/c,d",
    b"/..%2fprivate", b"/a/../b/./c", b"/a|b{c}\"^`<>", b"/?" + b"q" * 150, b"/some", b"/a?b=http://c/", b"/a:b@c",
)  # fmt: skip
ODD_TARGETS = (
    b"*", b"/a b", b"/a#b", b"/a\\b", b"/%00", b"/%", b"/%zz", b"a", b"", b"?x", b"a:80", b"http:/a", b"/\x7f",
    b"/\xc3\xa9", b"/a\tb", b"/" + b"u" * 199, b"/" + b"u" * 200, b"ftp://a.example/", b"/a\x00", b"http://", b"//",
    b"/?a\\b%00",
)  # fmt: skip
HOSTS = (
    b"a.example", b"a.example", b"A.Example:8080", b"127.0.0.1:80", b"[::1]", b"[2001:db8::1]:8080", b"a_b.example",
    b"a.", b"x" * 63, b"xn--bcher-kva.example", b"a%2Db", b"a!$&'()*+;=b", b"a:", b"%C3%A9",
)  # fmt: skip
ODD_HOSTS = (
    b"", b"a b", b"u@a", b"a/b", b"a,b", b"a:80:80", b"a:http", b"a:-1", b"[::1", b"::1", b"[gg::1]", b"a\xa0",
    b"a:70000", b"a%zz", b"a%2F", b"http://a", b"[::1]x", b"a?b", b"a#b", b"a\\b", b".", b"y" * 256, b"[v1.a]",
    b"[1.2.3.4]", b"a:000080",
)  # fmt: skip
VERSIONS = (b"HTTP/1.1",) * 12 + (b"HTTP/1.0",)
ODD_VERSIONS = (
    b"HTTP/2.0", b"HTTP/1.2", b"HTTP/0.9", b"HTTP/1", b"HTTP/11", b"http/1.1", b"HTTP/1.10", b"HTTP/01.1",
    b"HTTP/1.1 ", b"", b"RTSP/1.0", b"ICE/1.0", b"HTTP 1.1", b"HTTP/1.1x", b"HTTP/+1.1",
)  # fmt: skip
COMMON = (
    b"Accept: */*", b"User-Agent: fuzz/1 (x; y)", b"Cookie: a=b; c=d", b"Cookie: e=f",
    b"Referer: http://a.example/x?y", b"X-A: 1", b"x-a: 2", b"X-Empty:", b"X-Text: \x85\xa0na\xc3\xafve\xff",
    b"X-Tab: a\tb", b"Authorization: Basic eA==", b"Cache-Control: no-cache", b"Accept-Encoding: gzip, deflate",
    b"X-Custom: 1", b"X_Custom: 2", b"!#$%&'*+-.^`|~: odd", b"Content-Type: text/plain", b"X-Long: " + b"v" * 60,
    b"DNT:1", b"X-Sp:  two  ", b"Trailer: X-Sum", b"Date: today", b"If-None-Match: \"x\"", b"Origin: null",
    b"HTTP2-Settings: AAMAAABk",
)  # fmt: skip
SPECIAL = (
    b"Connection: close", b"Connection: keep-alive", b"Connection: X-A, x-tab", b"connection: Close, TE",
    b"Connection:", b"Connection: host, content-length, transfer-encoding, cookie", b"Connection: x-custom,,X-Empty",
    b"Connection: upgrade", b"Keep-Alive: timeout=5", b"Proxy-Connection: close", b"TE: trailers",
    b"TE: gzip;q=0.5, Trailers", b"TE: gzip", b"Upgrade: websocket", b"Upgrade: h2c", b"Upgrade: websocket, h2c",
    b"Via: 1.1 front", b"Via: 1.0 a, 1.1 b (c)", b"Via: 1.1 edge", b"Via: 1.1  edge , 1.0\tedge", b"Via:",
    b"X-Forwarded-For: 203.0.113.9", b"X-Forwarded-For: a, 198.51.100.1", b"X-Forwarded-Proto: https",
    b"X-Forwarded-Host: other.example", b"X-Forwarded-Port: 443", b"X-Real-IP: 203.0.113.9",
    b"Forwarded: for=\"[::1]\";proto=https", b"X-Request-Id: 7f3d-2c1b", b"X-Request-Id: \xff",
    b"x-request-id: second", b"X_Request_Id: evil", b"X_Forwarded_For: 6.6.6.6", b"x-forwarded_proto: https",
    b"X_Real-IP: 6.6.6.6", b"Keep_Alive: 5", b"Expect: 100-continue", b"expect: 100-Continue", b"Max-Forwards: 0",
    b"Max-Forwards: 7", b"Max-Forwards: 10", b"Connection: max-forwards, expect, via, x-forwarded-for, x-request-id",
    b"Connection: date", b"Connection: X-Sum",
)  # fmt: skip
FORBIDDEN = (
    b"Content_Length: 5", b"transfer_encoding: chunked", b"Transfer-Encoding : chunked", b"Content-Length : 5",
    b" X: folded", b"\tX: folded", b"NoColon", b": noname", b"X Y: 1", b"X\x80: 1", b"X: a\x00b", b"X: a\x0bb",
    b"X: a\rb", b"X: a\nb", b"X(Y): 1", b"Expect: x", b"Expect: 100-continue, y", b"Max-Forwards: -1",
    b"Max-Forwards: 1_0", b"Host: evil", b"X: \x7f", b"\x00: 1", b"X:\x01", b"Transfer-Encoding: chunked",
    b"Content-Length: 5", b"X: y\rContent-Length: 5", b"X: y\nTransfer-Encoding: chunked",
)  # fmt: skip
NUMBERS = (
    b"0", b"5", b"05", b"+5", b"-5", b"0x5", b"5 ", b"5\t", b" 5", b"5,5", b"5, 5", b"", b"5 5", b"1_0", b"5.0",
    b"5e0", b"18446744073709551616", b"999999999999999999", b"9" * 40, b"\xd9\xa5", b"5\xa0", b"5;", b"4", b"1000",
    b"1001",
)  # fmt: skip
CODINGS = (
    b"chunked", b"Chunked", b"chunked ", b"chunked\t", b",chunked", b"chunked,", b"gzip, chunked", b"identity",
    b"chunked, chunked", b"xchunked", b"\x0bchunked", b"chunked;a=b", b"", b"\"chunked\"", b"chunked\xa0", b"gzip",
    b"chunked, identity", b"chu nked",
)  # fmt: skip
SIZES = (
    b"+5", b"-5", b"0x5", b"5 ", b" 5", b"g", b"", b"F" * 17, b"F" * 16, b"0_5", b"5;a\n", b"5;=", b"5;a=", b'5;a="',
    b"5\xa0",
)  # fmt: skip
EXTENSIONS = (
    b"", b"", b"", b"", b";a", b";a=b", b';a="b;c\\"d"', b";a;b=c", b";a=" + b"b" * 250, b";a=" + b"b" * 254,
)  # fmt: skip
TRAILERS = (
    b"X-Sum: abc", b"X-Sum: abc", b"x-more:", b"Content-Digest: sha-256=:x:", b"Host: evil", b"Content-Length: 5",
    b"Cookie: a=b", b"Transfer-Encoding: chunked", b"X_Forwarded_For: 6.6.6.6", b"Authorization: x", b"X-T: \xff\t",
    b"Set-Cookie: a=b", b"Location: /",
)  # fmt: skip
CONTENTS = (
    b"", b"x", b"hello", b"hello world", b"\x00\xff\r\n", b"0\r\n\r\n",
    b"GET /smuggled HTTP/1.1\r\nHost: evil\r\n\r\n", b"a\r\nHost: evil.example\r\nb",
    b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n", b"y" * 300, b"\r\n", b"z" * 990,
)  # fmt: skip
REASONS = (b"OK", b"OK", b"OK", b"Fine By Me", b"", b"Not\tOK", b"\xc9a", b"  ")
STATUSES = (b"200",) * 10 + (
    b"204",
    b"304",
    b"304",
    b"404",
    b"500",
    b"205",
    b"206",
    b"301",
    b"299",
    b"599",
    b"600",
    b"999",
    b"426",
)
INTERIMS = (b"100", b"102", b"103", b"103", b"199")
ODD_STATUSES = (b"99", b"099", b"000", b"2000", b"abc", b"", b"+20", b"101", b"2 0", b"1e2")
RESPONSE_FIELDS = (
    b"Date: Sat, 21 Nov 2026 10:00:00 GMT", b"Server: x/1", b"Set-Cookie: a=1; Path=/", b"Set-Cookie: b=2, c",
    b"ETag: \"x\"", b"Cache-Control: no-store", b"X-A: 1", b"X-Text: \x85\xff", b"Empty:", b"Content-Type: text/html",
    b"Vary: *", b"b:1", b"Via: 1.1 origin", b"Trailer: X-Sum", b"Link: </a.css>; rel=preload", b"date: now",
    b"Age:  5 ",
)  # fmt: skip
RESPONSE_SPECIAL = (
    b"Connection: close", b"Connection: keep-alive", b"Connection: X-A, Close", b"connection: server",
    b"Keep-Alive: timeout=5", b"Proxy-Connection: keep-alive", b"Upgrade: websocket", b"Upgrade: h2c",
    b"Upgrade: websocket, h2c", b"Connection: upgrade", b"TE: x", b"Connection: foo, keep-alive",
    b"Connection: set-cookie, date", b"Connection: x-sum", b"Connection:",
)  # fmt: skip
DICTIONARY = (
    b"\r\n", b"\n", b"\r", b"\r\r\n", b"\r\n\r\n", b" ", b"\t", b"\x00", b":", b"HTTP/1.1", b"Content-Length",
    b"Transfer-Encoding", b"chunked", b"Host: ", b"0\r\n\r\n", b"\x0b", b"\x85", b"Connection: ", b",", b";", b"\x7f",
    b"100", b"Upgrade: websocket\r\n",
)  # fmt: skip
