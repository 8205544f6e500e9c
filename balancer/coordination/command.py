"""What a log entry holds: a request that changes the state, and who asked, so that it is done once (thesis 6.3)."""

from typing import Annotated, NamedTuple

import msgspec

from balancer.coordination.refusals import DAMAGED_COMMAND
from balancer.coordination.requests import (
    CompactionRequest,
    DeleteRangeRequest,
    LeaseGrantRequest,
    LeaseRevokeRequest,
    PutRequest,
    TxnRequest,
)
from balancer.coordination.responses import (
    CompactionResponse,
    DeleteRangeResponse,
    LeaseGrantResponse,
    LeaseRevokeResponse,
    PutResponse,
    ResponseHeader,
    TxnResponse,
)

Number = Annotated[int, msgspec.Meta(ge=0, le=2**63 - 1)]


class RegisterSession(msgspec.Struct, frozen=True, tag="register", omit_defaults=True):
    """Asks for a session, whose number comes from the index of the entry that holds this command.

    `client`: for somebody outside; those have numbers that no member has (`sessions.CLIENTS_FROM`).
    """

    client: bool = False


class RegisterSessionResponse(msgspec.Struct, frozen=True, tag="register", omit_defaults=True):
    header: ResponseHeader = ResponseHeader()
    session: int = 0


Request = (
    PutRequest
    | DeleteRangeRequest
    | TxnRequest
    | CompactionRequest
    | LeaseGrantRequest
    | LeaseRevokeRequest
    | RegisterSession
)

Result = (
    PutResponse
    | DeleteRangeResponse
    | TxnResponse
    | CompactionResponse
    | LeaseGrantResponse
    | LeaseRevokeResponse
    | RegisterSessionResponse
)


class Command(msgspec.Struct, frozen=True, array_like=True):
    """A request as the log holds it.

    `session` 0: it is done as often as it is in the log. Else (session, seq) names it for good, and every command of
    the session with a `seq` below `answered_below` has got its answer. `decided_term`, where not 0: a decision of the
    leader of that term, void in an entry of another.
    """

    session: Number
    seq: Number
    answered_below: Number
    request: Request
    decided_term: Number = 0


class Ticket(NamedTuple):
    """How a client named its change, so that it may send it again; the fields as in `Command`."""

    session: int
    seq: int
    answered_below: int


_encoder = msgspec.msgpack.Encoder()
_decoder = msgspec.msgpack.Decoder(Command)


def encode(command: Command) -> bytes:
    """The bytes for a log entry. A transaction is to be checked before: see `checks.check_txn`."""
    return _encoder.encode(command)


def decode(data: bytes) -> Command:
    """What `encode` was given. Raises CoordinationError for anything that it cannot have made."""
    try:
        return _decoder.decode(data)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise DAMAGED_COMMAND.error() from error
