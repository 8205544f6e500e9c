"""The verdict on one observation: byte for byte for our daemon, by meaning for its peers."""

import re
from collections.abc import Iterable

from tests.conformance.model import (
    PLACEHOLDERS,
    Answer,
    Case,
    Cut,
    Forwarded,
    Interim,
    Own,
    Partial,
    Relayed,
)
from tests.conformance.runner import Arrived, Observation
from tests.support.raw_messages import Message

# Fields that proxies add or change by their configuration; a peer is not judged by them unless a case says so.
ADDED = frozenset(
    b"x-forwarded-for x-forwarded-proto x-forwarded-host x-forwarded-port forwarded via x-request-id connection"
    b" date server content-length transfer-encoding keep-alive".split()
)
PROBE_ANSWERS = 1


def template(head: bytes, values: dict[bytes, bytes]) -> "re.Pattern[bytes]":
    """A pattern that matches exactly the heads that `head` stands for."""
    text = re.escape(head)
    for name, value in values.items():
        text = text.replace(re.escape(name), re.escape(value))
    for name, pattern in PLACEHOLDERS.items():
        text = text.replace(re.escape(name), pattern)
    return re.compile(text, re.DOTALL)


def filled(head: bytes, values: dict[bytes, bytes]) -> bytes:
    """`head` with the values that are known; PLACEHOLDERS stay, for messages and comparisons by meaning."""
    for name, value in values.items():
        head = head.replace(name, value)
    return head


class Verdict:
    """Collects what is wrong. `strict`: byte for byte; otherwise by meaning."""

    def __init__(self, case: Case, seen: Observation, *, strict: bool) -> None:
        self.case = case
        self.seen = seen
        self.strict = strict
        self.problems: list[str] = []
        self.other_status: int | None = None  # a refusal with another code than ours

    def judge(self) -> list[str]:
        """Every problem, in words; empty when the case holds."""
        self._forwarded()
        self._answers()
        self._end()
        self._upstream()
        if self.seen.probes > 1:
            self._wrong("a request behind the last answer was served")
        if not self.seen.probe_answered:
            self._wrong("the request that followed was not answered")
        return self.problems

    def _wrong(self, text: str) -> None:
        self.problems.append(text)

    def _forwarded(self) -> None:
        case, seen = self.case, self.seen
        whole = [forwarded for forwarded in case.forwarded if isinstance(forwarded, Forwarded)]
        partial = [forwarded for forwarded in case.forwarded if isinstance(forwarded, Partial)]
        arrived = list(seen.arrived)
        for expected in whole:
            if not arrived:
                self._wrong(f"not forwarded: {expected.head[:60]!r}")
                return
            self._request(expected, arrived.pop(0))
        fragments = [data for index, data in seen.fragments.items() if index not in self._tunnels(whole)]
        if partial:
            self._partial(partial[0], arrived, fragments)
            return
        for extra in arrived:
            self._wrong(f"forwarded: {_short(extra.message)}")
        for data in fragments:
            self._wrong(f"stray bytes at the origin: {data[:80]!r}")
        if not case.forwarded and seen.connections and self.strict:
            self._wrong(f"{seen.connections} connections opened to the origin for nothing")

    def _tunnels(self, whole: list[Forwarded]) -> set[int]:
        tunnels = set()
        for expected, arrived in zip(whole, self.seen.arrived, strict=False):
            if expected.raw:
                tunnels.add(arrived.connection)
                got = self.seen.fragments.get(arrived.connection, b"")
                if got != expected.raw:
                    self._wrong(f"through the tunnel the origin got {got[:80]!r}, not {expected.raw[:80]!r}")
        return tunnels

    def _request(self, expected: Forwarded, arrived: Arrived) -> None:
        message = arrived.message
        if message.broken:
            self._wrong(f"forwarded what is not HTTP ({message.broken}): {message.head[:120]!r}")
            return
        if not message.complete:
            self._wrong(f"forwarded incompletely: {_short(message)}, {len(message.body)} bytes of body")
        self._head("forwarded", expected.head, message)
        if message.body != expected.body:
            self._wrong(f"forwarded body {message.body[:60]!r}, not {expected.body[:60]!r}")
        if self.strict and message.framing != expected.framing:
            self._wrong(f"forwarded with framing {message.framing}, not {expected.framing}")
        self._trailers("forwarded", expected.trailers, message)
        if message.extensions:
            self._wrong("forwarded chunk extensions")

    def _partial(self, expected: Partial, arrived: list[Arrived], fragments: list[bytes]) -> None:
        if len(arrived) > 1:
            self._wrong(f"forwarded {len(arrived)} requests: {_short(arrived[-1].message)}")
        for entry in arrived[:1]:
            message = entry.message
            if message.complete:
                self._wrong(f"forwarded as a whole request: {_short(message)} with body {message.body[:40]!r}")
                continue
            if message.broken:
                self._wrong(f"forwarded what is not HTTP ({message.broken})")
            self._head("forwarded", expected.head, message)
            if not expected.body.startswith(message.body):
                self._wrong(f"forwarded body {message.body[:60]!r}, of which only {expected.body[:60]!r} was sound")
            if not self.seen.ended_upstream[entry.connection]:
                self._wrong("the broken request's upstream connection was left open")
        for data in fragments:
            if not self.strict or not template_prefix(expected.head, data):
                self._wrong(f"stray bytes at the origin: {data[:80]!r}")

    def _head(self, what: str, expected: bytes, message: Message) -> None:
        if self.strict:
            if template(expected, self.seen.values).fullmatch(message.head) is None:
                self._wrong(f"{what} head\n    got      {message.head!r}\n    expected {expected!r}")
            return
        wanted_line, wanted = _split_head(filled(expected, self.seen.values))
        if not wanted_line.startswith(b"HTTP/") and message.line != wanted_line:
            self._wrong(f"{what} {message.line[:80]!r}, not {wanted_line[:80]!r}")
        compared = self.case.compared
        got = sorted((n.lower(), v) for n, v in message.fields if n.lower() not in ADDED or n.lower() in compared)
        want = sorted((n.lower(), v) for n, v in wanted if n.lower() not in ADDED or n.lower() in compared)
        for name, value in want:
            if b"<" not in value and (name, value) not in got:
                self._wrong(f"{what} without {name.decode()}: {value[:40].decode('latin-1')}")
        for name, value in got:
            if (name, value) not in want and not any(n == name and b"<" in v for n, v in want):
                self._wrong(f"{what} with {name.decode()}: {value[:40].decode('latin-1')}")

    def _trailers(self, what: str, expected: bytes, message: Message) -> None:
        got = message.trailers
        if got != expected and (self.strict or got.lower() != expected.lower()):
            self._wrong(f"{what} trailers {got!r}, not {expected!r}")

    def _answers(self) -> None:
        responses = list(self.seen.responses)
        if self.seen.probed_on_client:
            responses = responses[:-PROBE_ANSWERS]
        for expected in self.case.answers:
            if not responses:
                if not (isinstance(expected, Cut) and not self.seen.received):
                    self._wrong(f"no answer, where {_words(expected)} was due")
                return
            self._answer(expected, responses.pop(0))
        for extra in responses:
            self._wrong(f"a further answer: {extra.line[:60]!r}")
        tunnel = b"".join(answer.raw for answer in self.case.answers if isinstance(answer, Relayed))
        if self.seen.leftover != tunnel:
            self._wrong(f"bytes behind the answers: {self.seen.leftover[:80]!r}, not {tunnel[:80]!r}")

    def _answer(self, expected: Answer, message: Message) -> None:
        if isinstance(expected, Cut) and expected.or_502 and message.status == 502:
            expected = Own((502,))
        if isinstance(expected, Own):
            self._own(expected, message)
            return
        if message.broken:
            self._wrong(f"answered what is not HTTP ({message.broken}): {message.head[:100]!r}")
            return
        _, _, wanted_status = expected.head.partition(b" ")
        if message.head[9:12] != wanted_status[:3]:
            self._wrong(f"answered {message.status}, not {wanted_status[:3].decode()}")
            return
        self._head("answered", expected.head, message)
        if isinstance(expected, Interim):
            return
        if isinstance(expected, Cut):
            if message.complete and (message.framing != "close" or self.seen.client_end != "reset"):
                self._wrong("a broken answer was ended as if it were whole")
            if not expected.body.startswith(message.body):
                self._wrong(f"answered body {message.body[:60]!r}")
            return
        if not message.complete:
            self._wrong(f"answered incompletely: {len(message.body)} bytes of body ({message.framing})")
        if message.body != expected.body:
            self._wrong(f"answered body {message.body[:60]!r}, not {expected.body[:60]!r}")
        if message.framing != expected.framing and (self.strict or expected.framing == "none"):
            self._wrong(f"answered with framing {message.framing}, not {expected.framing}")
        self._trailers("answered", expected.trailers, message)
        if message.extensions:
            self._wrong("answered with chunk extensions")

    def _own(self, expected: Own, message: Message) -> None:
        if message.broken or message.status not in expected.statuses:
            refusal = message.status >= 400 and min(expected.statuses) >= 400
            if not self.strict and refusal and not message.broken:
                self.other_status = message.status
            else:
                self._wrong(f"answered {message.line[:50]!r}, not {'/'.join(map(str, expected.statuses))}")
                return
        if not self.strict:
            return
        if not message.complete:
            self._wrong("own answer is incomplete")
        closes = any(value.lower() == b"close" for value in message.values(b"connection"))
        if expected.close is not None and closes is not expected.close:
            self._wrong(f"own answer {'lacks' if expected.close else 'has'} Connection: close")
        if len(message.values(b"content-length")) != 1 and message.status not in (204, 304):
            self._wrong("own answer without one Content-Length")
        if not message.values(b"date"):
            self._wrong("own answer without Date")
        if expected.body is not None and message.body != expected.body:
            self._wrong(f"own answer's body {message.body[:60]!r}, not {expected.body!r}")
        if len(message.body) > 200 or re.search(
            rb"nginx|haproxy|python|balancer/|Traceback", message.head, re.IGNORECASE
        ):
            self._wrong(f"own answer says too much: {message.head!r} {message.body[:200]!r}")
        for name, pattern in expected.fields:
            if not any(re.fullmatch(pattern, value) for value in message.values(name)):
                self._wrong(f"own answer without {name.decode()}: {pattern.decode()} (has {message.values(name)})")

    def _end(self) -> None:
        end, case_end = self.seen.client_end or ("clean" if self.seen.lingering else ""), self.case.end
        if case_end == "broken" and self.seen.responses and self.seen.responses[0].status == 502:
            case_end = "stated"
        if case_end == "stated":
            case_end = "closed" if end else "kept"
            said = self.seen.responses and any(
                b"close" in value.lower() for message in self.seen.responses for value in message.values(b"connection")
            )
            if self.strict and bool(end) != bool(said):
                self._wrong(f"the connection was {'closed' if end else 'kept'}, against what the answer said")
        if case_end == "kept" and not self.seen.probed_on_client:
            self._wrong("the client's connection was not kept")
        elif case_end == "closed" and end != "clean" and (self.strict or not end):
            self._wrong(f"the client's connection was not closed cleanly ({end or 'still open'})")
        elif case_end == "broken" and not end:
            self._wrong("the client's connection was left open")

    def _upstream(self) -> None:
        seen, wanted = self.seen, self.case.upstream
        if wanted == "any" or not seen.arrived:
            return
        last = seen.arrived[-1].connection
        if wanted == "closed":
            if not seen.ended_upstream[last]:
                self._wrong("the upstream connection was left open")
            if seen.probe_connection == last:
                self._wrong("the upstream connection was used again")
        elif self.strict and seen.probe_connection != last:
            self._wrong("the upstream connection was not used again")


def template_prefix(head: bytes, data: bytes) -> bool:
    """Whether `data` may be the beginning of `head`, whose first placeholder ends the comparison."""
    known = head.partition(b"<")[0]
    return known.startswith(data) or data.startswith(known)


def _split_head(head: bytes) -> tuple[bytes, list[tuple[bytes, bytes]]]:
    first, *rest = head.replace(b"<maybe-close>\r\n", b"")[:-4].split(b"\r\n")
    pairs = [line.partition(b":") for line in rest]
    return first, [(name, value.strip(b" \t")) for name, _, value in pairs]


def _short(message: Message) -> str:
    return message.line[:60].decode("latin-1") if message.line else repr(message.head[:60])


def _words(answer: Answer) -> str:
    if isinstance(answer, Own):
        return "/".join(map(str, answer.statuses))
    return answer.head[9:12].decode()


def describe(seen: Observation) -> str:
    """What a target did, in a few words for the table."""
    shown: Iterable[Message] = seen.responses[:-PROBE_ANSWERS] if seen.probed_on_client else seen.responses
    statuses = [str(message.status) if message.status else "not HTTP" for message in shown]
    answers = ", ".join(statuses) or "no answer"
    forwarded = "; ".join(_short(entry.message) for entry in seen.arrived)
    end = (
        "kept"
        if seen.probed_on_client
        else {"": "open", "clean": "closed", "cut": "cut", "reset": "reset"}.get(seen.client_end, seen.client_end)
    )
    return f"{answers} ({end}); " + (f"forwarded {forwarded}" if forwarded else "nothing forwarded")
