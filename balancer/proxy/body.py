"""Bodies on their way through: where one ends, and its bytes as the other side gets them.

Hot path for large bodies. Framing is never passed on: chunks are decoded and encoded anew, lengths are counted
(RFC 9112 sections 6 and 7). Nothing is collected: what `feed` returns is written at once.
"""

from balancer.errors import BAD_BODY, BAD_RESPONSE_BODY, BODY_TOO_LARGE, ProtocolError
from balancer.http1.framing import LAST_CHUNK, ChunkedDecoder, encode_chunk, last_chunk
from balancer.http1.message import CHUNKED, UNTIL_CLOSE, RequestHead, ResponseHead


class RequestBody:
    """A request's body, from the client to a backend. `done` once its last byte was fed."""

    __slots__ = ("_decoder", "_head", "_left", "_limit", "done", "received")

    def __init__(self, head: RequestHead, limit: int | None) -> None:
        """`limit` = max_body in bytes, None = off. Raises ProtocolError."""
        length = head.length
        if limit is not None and length > limit:
            raise ProtocolError(BODY_TOO_LARGE, "Content-Length is over max_body")
        self._head = head
        self._left = length
        self._decoder = ChunkedDecoder() if length == CHUNKED else None
        self._limit = limit
        self.received = 0  # payload bytes
        self.done = length == 0

    def feed(self, data: bytes, start: int) -> tuple[bytes, int]:
        """The bytes to send on for data[start:], and the offset behind the body's end or -1 for more.

        Raises ProtocolError(BAD_BODY | BODY_TOO_LARGE).
        """
        decoder = self._decoder
        if decoder is None:
            size = len(data) - start
            left = self._left
            if size < left:
                self._left = left - size
                self.received += size
                return (data[start:] if start else data), -1
            self._left = 0
            self.received += left
            self.done = True
            end = start + left
            return data[start:end], end
        pieces: list[bytes] = []
        end = decoder.feed(data, start, pieces)
        self.received += sum(map(len, pieces))
        if self._limit is not None and self.received > self._limit:
            raise ProtocolError(BODY_TOO_LARGE, "chunked content is over max_body")
        out = encode_chunk(pieces)
        if end >= 0:
            self.done = True
            out += last_chunk(decoder.trailers, self._head.nominated) if decoder.trailers else LAST_CHUNK
        return out, end


class ResponseBody:
    """A response's body, from a backend to the client.

    `minor` is the client's HTTP/1 version: to 1.1 everything without a length is chunked, to 1.0 it ends with the
    connection. `trailers`: the client said `TE: trailers`.
    """

    __slots__ = ("_chunk", "_decoder", "_head", "_left", "_trailers", "until_close")

    def __init__(self, head: ResponseHead, minor: int, trailers: bool) -> None:
        length = head.length
        self._head = head
        self._left = length
        self._decoder = ChunkedDecoder() if length == CHUNKED else None
        self.until_close = length == UNTIL_CLOSE
        self._chunk = minor == 1 and length < 0
        self._trailers = trailers

    def feed(self, data: bytes, start: int) -> tuple[bytes, int]:
        """The bytes for the client, and the offset behind the body's end or -1 for more.

        Raises ProtocolError(BAD_RESPONSE_BODY).
        """
        decoder = self._decoder
        if decoder is not None:
            return self._feed_chunks(decoder, data, start)
        if self.until_close:
            rest = data[start:] if start else data
            return (encode_chunk([rest]) if self._chunk else rest), -1
        size = len(data) - start
        left = self._left
        if size < left:
            self._left = left - size
            return (data[start:] if start else data), -1
        self._left = 0
        end = start + left
        return data[start:end], end

    def _feed_chunks(self, decoder: ChunkedDecoder, data: bytes, start: int) -> tuple[bytes, int]:
        pieces: list[bytes] = []
        try:
            end = decoder.feed(data, start, pieces)
        except ProtocolError as error:
            if error.outcome is BAD_BODY:
                raise ProtocolError(BAD_RESPONSE_BODY, error.detail) from None
            raise
        if not self._chunk:
            return b"".join(pieces), end
        out = encode_chunk(pieces)
        if end >= 0:
            trailers = decoder.trailers if self._trailers else b""
            out += last_chunk(trailers, self._head.nominated) if trailers else LAST_CHUNK
        return out, end

    def end_of_stream(self) -> bytes | None:
        """The backend closed: the bytes that end the body for the client, or None when it is cut short."""
        if not self.until_close:
            return None
        return LAST_CHUNK if self._chunk else b""
