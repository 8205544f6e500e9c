"""The gateway's streams: watch, keepalive and observe. One JSON object with a line end is one piece, one HTTP chunk.

The answer's status waits for the first response, so that an error before it has a status of its own. Requests of a
stream are JSON objects one behind the other in the request's body. The first must be good; a fault in a later one
ends what is read, not what is answered (all as etcd's gateway does).
"""

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable
from typing import Final

import msgspec

from balancer.consensus.gateway_errors import JSON, error_answer, error_piece, stream_error_answer
from balancer.consensus.gateway_json import Decoder, Encoder
from balancer.consensus.gateway_objects import JsonObjects
from balancer.consensus.service_face import Service, WatchStream
from balancer.coordination.errors import Code, CoordinationError
from balancer.coordination.requests import LeaderRequest, WatchCreateRequest
from balancer.coordination.responses import LeaderResponse, LeaseKeepAliveResponse, WatchResponse
from balancer.transport.http_server import Request, Response

AT_A_TIME: Final = 16  # objects of one piece, between which nobody else has a turn
OBJECT_MAX: Final = 64 * 1024  # one request of a stream


class WatchCancelRequest(msgspec.Struct, frozen=True):
    watch_id: int = 0


class WatchProgressRequest(msgspec.Struct, frozen=True):
    pass


class WatchRequest(msgspec.Struct, frozen=True):
    """One is set; nothing set is left without an answer."""

    create_request: WatchCreateRequest | None = None
    cancel_request: WatchCancelRequest | None = None
    progress_request: WatchProgressRequest | None = None


class LeaseKeepAliveRequest(msgspec.Struct, frozen=True):
    ID: int = 0


class GatewayStreams:
    """Answers requests for streams out of a service's."""

    def __init__(self, service: Service) -> None:
        self._service = service
        self._watch_requests = Decoder(WatchRequest, frozenset([WatchRequest]))
        self._watch_responses = Encoder(WatchResponse)
        self._keep_alive_requests = Decoder(LeaseKeepAliveRequest)
        self._keep_alive_responses = Encoder(LeaseKeepAliveResponse)
        self._leader_requests = Decoder(LeaderRequest)
        self._leader_responses = Encoder(LeaderResponse)

    async def watch(self, request: Request) -> Response:
        """Watches, until the client leaves."""
        objects = _objects(request)
        stream = self._service.watch()
        reading: asyncio.Task[None] | None = None

        async def close() -> None:
            if reading is not None:
                reading.cancel()
            await stream.close()

        try:
            await self._ask(stream, await anext(objects, None))
        except CoordinationError as error:
            await close()
            return error_answer(Code.UNKNOWN, error.message)
        except BaseException:
            await close()
            raise
        reading = asyncio.create_task(self._ask_on(stream, objects, request))
        return await _answer(self._watched(stream), close)

    async def _ask(self, stream: WatchStream, text: bytes | None) -> None:
        if text is None:
            return
        asked = self._watch_requests.decode(text)
        if asked.create_request is not None:
            await stream.create(asked.create_request)
        elif asked.cancel_request is not None:
            await stream.cancel(asked.cancel_request.watch_id)
        elif asked.progress_request is not None:
            await stream.request_progress()

    async def _ask_on(self, stream: WatchStream, objects: AsyncIterator[bytes], request: Request) -> None:
        try:
            async for text in objects:
                await self._ask(stream, text)
        except CoordinationError:
            # What is behind a fault is dropped. Left unread, it would hide that the client leaves.
            async for _ in _pieces(request):
                pass

    async def _watched(self, stream: WatchStream) -> AsyncGenerator[bytes, None]:
        encode = self._watch_responses.encode
        async for response in stream:
            yield b'{"result":%b}\n' % encode(response)

    async def keep_alive(self, request: Request) -> Response:
        """Each lease that is named gets its TTL again; ends with the request's body."""
        objects = _objects(request)
        try:
            text = await anext(objects, None)
            first = None if text is None else self._keep_alive_requests.decode(text)
        except CoordinationError as error:
            return error_answer(Code.UNKNOWN, error.message)
        return await _answer(self._kept(first, objects), _nothing)

    async def _kept(
        self, asked: LeaseKeepAliveRequest | None, objects: AsyncIterator[bytes]
    ) -> AsyncGenerator[bytes, None]:
        while asked is not None:
            response = await self._service.lease_keep_alive(asked.ID)
            yield b'{"result":%b}\n' % self._keep_alive_responses.encode(response)
            try:
                text = await anext(objects, None)
                asked = None if text is None else self._keep_alive_requests.decode(text)
            except CoordinationError:
                return  # as for watches

    async def observe(self, request: Request) -> Response:
        """The leader of an election, and each new one, until the client leaves."""
        try:
            asked = self._leader_requests.decode(request.body)
        except CoordinationError as error:
            return error_answer(error.code, error.message)
        return await _answer(self._observed(asked), _nothing)

    async def _observed(self, asked: LeaderRequest) -> AsyncGenerator[bytes, None]:
        leaders = self._service.observe(asked)
        try:
            async for response in leaders:
                yield b'{"result":%b}\n' % self._leader_responses.encode(response)
        finally:
            await leaders.aclose()


async def _nothing() -> None:
    return


async def _objects(request: Request) -> AsyncGenerator[bytes, None]:
    """The JSON objects of the request's body, as they come. Raises CoordinationError."""
    objects = JsonObjects(OBJECT_MAX)
    async for piece in _pieces(request):
        for number, text in enumerate(objects.feed(piece)):
            if number % AT_A_TIME == AT_A_TIME - 1:
                await asyncio.sleep(0)  # a piece may hold thousands of them, and others have their turn
            yield text
    if objects.rest:
        raise CoordinationError(Code.INVALID_ARGUMENT, "unexpected EOF")


async def _pieces(request: Request) -> AsyncGenerator[bytes, None]:
    if request.stream is None:
        yield request.body
    else:
        async for piece in request.stream:
            yield piece


async def _answer(pieces: AsyncGenerator[bytes, None], close: Callable[[], Awaitable[None]]) -> Response:
    """The answer that `pieces` make, once the first is there. `close` is called when it is over."""
    body = _Pieces(pieces, close)
    try:
        body.first = await anext(pieces)
    except StopAsyncIteration:
        await body.aclose()
        return Response(200, b"", JSON)
    except CoordinationError as error:
        await body.aclose()
        return stream_error_answer(error)
    except BaseException:
        await body.aclose()
        raise
    return Response(200, body, JSON)


class _Pieces:
    """A body whose first piece is there already, and whose error is its last one."""

    def __init__(self, pieces: AsyncGenerator[bytes, None], close: Callable[[], Awaitable[None]]) -> None:
        self.first: bytes | None = None
        self._pieces = pieces
        self._close = close
        self._over = False

    def __aiter__(self) -> "_Pieces":
        return self

    async def __anext__(self) -> bytes:
        if self.first is not None:
            piece, self.first = self.first, None
            return piece
        if self._over:
            raise StopAsyncIteration
        try:
            return await anext(self._pieces)
        except CoordinationError as error:
            self._over = True
            return error_piece(error)

    async def aclose(self) -> None:
        """Give up what the pieces come from."""
        await self._pieces.aclose()
        await self._close()
