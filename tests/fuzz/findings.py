"""What a fuzzer says when the data path and a model differ, and the answers of our own, read by both fuzzers."""

from dataclasses import dataclass

from balancer.proxy.downstream import Downstream


class FindingError(AssertionError):
    """The data path did other than the model says."""


def check(true: object, text: str) -> None:
    """Raise a FindingError unless true."""
    if not true:
        raise FindingError(text)


@dataclass(frozen=True, slots=True)
class Judged:
    """An input on which the data path and the model agree.

    `valid`: the model wants it passed on whole. `label` says for the statistics what became of it. `client`: the
    connection, if it is still open and the next input may come on it.
    """

    valid: bool
    label: str
    client: Downstream | None


def read_own_answer(told: bytes, at: int, *, bodiless: bool) -> tuple[int, bool, int]:
    """Status, whether it says close, and the offset behind it, of an answer that we made."""
    head_end = told.find(b"\r\n\r\n", at) + 4
    check(head_end > 3 and told.startswith(b"HTTP/1.1 ", at), f"told the client what is no answer: {told[at:]!r:.200}")
    lines = told[at : head_end - 4].split(b"\r\n")
    fields = dict(line.split(b": ", 1) for line in lines[1:])
    size = int(fields.get(b"Content-Length", b"0"))
    return int(lines[0][9:12]), fields.get(b"Connection") == b"close", head_end + (0 if bodiless else size)
