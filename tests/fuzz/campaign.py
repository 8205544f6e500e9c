"""Many inputs, one after the other: each has a number, and its number and the seed make it again.

Inputs come in batches that begin with fresh client connections, so that a finding is made again by its batch up to it.
That holds while grammar and corpus stay as they are: the bytes of a finding go into the corpus, under a name that says
what is right (`refused-400-...`, `relayed-...`), and are tested there at every cut.
"""

import asyncio
import multiprocessing
from collections import Counter
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, field, replace
from pathlib import Path
from random import Random
from typing import Literal

from balancer.http1.plain_heads import (
    COMPILED,
    plain_request,
    plain_request_twin,
    plain_response,
    plain_response_twin,
)
from balancer.proxy.downstream import Downstream
from tests.fuzz.findings import Judged, check
from tests.fuzz.grammar import Grammar, pieces
from tests.fuzz.in_memory import HEADER_COUNT, URI_BYTES, InMemoryLoop, Proxy
from tests.fuzz.requests import RequestInput, fuzz_request
from tests.fuzz.responses import REQUESTS, ResponseInput, fuzz_response

Kind = Literal["requests", "responses"]
Input = RequestInput | ResponseInput

CORPUS = Path(__file__).parent / "corpus"
BATCH = 64
TWINS_EVERY = 4  # the twin costs as much as all the rest of the parser
VALID_SHARE = 0.2
_SALT: dict[Kind, int] = {"requests": 1, "responses": 2}


class CampaignError(AssertionError):
    """A finding, or an exception of the data path, with the command that makes it again."""


@dataclass(frozen=True, slots=True)
class Range:
    """Inputs `first` to `first + count` of a kind and seed."""

    kind: Kind
    seed: int
    first: int
    count: int


@dataclass(slots=True)
class Tally:
    """What became of the inputs of a range."""

    inputs: int = 0
    valid: int = 0
    labels: Counter[str] = field(default_factory=Counter)

    def add(self, other: "Tally") -> None:
        """Count another range's, too."""
        self.inputs += other.inputs
        self.valid += other.valid
        self.labels += other.labels

    @property
    def valid_share(self) -> float:
        """Valid inputs of all."""
        return self.valid / max(self.inputs, 1)


def corpus(kind: Kind) -> dict[str, bytes]:
    """The kept inputs by name."""
    return {path.name: path.read_bytes() for path in sorted((CORPUS / kind).glob("*.http"))}


def make_grammar() -> Grammar:
    """A grammar that splices with the corpus."""
    return Grammar(list(corpus("requests").values()), list(corpus("responses").values()))


def make_input(grammar: Grammar, kind: Kind, seed: int, number: int) -> Input:
    """The input with this number."""
    rng = Random((seed << 64) + (_SALT[kind] << 60) + number)
    if kind == "requests":
        data = grammar.request(rng)
        listener = "plain" if rng.random() < 0.7 else "trusted"
        return RequestInput(data, pieces(rng, data), listener, eager=rng.random() < 0.5, keep=rng.random() < 0.5)
    request = int(rng.random() * len(REQUESTS))
    data = grammar.response(rng, upgrade=REQUESTS[request][0].upgrade)
    return ResponseInput(data, pieces(rng, data), request, ended=rng.random() < 0.4, keep=rng.random() < 0.7)


def check_plain_heads(given: Input) -> None:
    """The compiled reader of plain heads says what its twin in Python says, of these bytes or of any."""
    head = given.data[: given.data.find(b"\r\n\r\n") + 4] or given.data
    if isinstance(given, RequestInput):
        fast, twin = (read(head, URI_BYTES, HEADER_COUNT) for read in (plain_request, plain_request_twin))
        check(fast == twin, f"the compiled reader says {fast}, not {twin}")
    else:
        fast_response, twin_response = plain_response(head), plain_response_twin(head)
        check(fast_response == twin_response, f"the compiled reader says {fast_response}, not {twin_response}")


async def judge(proxy: Proxy, given: Input, kept: Downstream | None) -> Judged:
    """Run one input. Raises FindingError."""
    if isinstance(given, RequestInput):
        return fuzz_request(proxy, given, kept)
    return await fuzz_response(proxy, given, kept)


def run_range(wanted: Range) -> Tally:
    """Run a range in this process. Raises CampaignError at the first finding."""
    with asyncio.Runner(loop_factory=InMemoryLoop) as runner:
        return runner.run(_run(wanted))


async def _run(wanted: Range) -> Tally:
    proxy = Proxy()
    grammar = make_grammar()
    tally = Tally()
    kept: Downstream | None = None
    for number in range(wanted.first, wanted.first + wanted.count):
        if number % BATCH == 0:
            while proxy.clients:
                proxy.gone(proxy.clients[-1])
            kept = None
        given = make_input(grammar, wanted.kind, wanted.seed, number)
        try:
            if COMPILED and number % TWINS_EVERY == 0:
                check_plain_heads(given)
            judged = await judge(proxy, given, kept)
        except Exception as error:
            replay = f"python -m tests.fuzz --replay {wanted.kind}:{wanted.seed}:{number}"
            raise CampaignError(f"{replay}\n{type(error).__name__}: {error}\n{given}") from error
        kept = judged.client
        tally.inputs += 1
        tally.valid += judged.valid
        tally.labels[judged.label] += 1
    return tally


def run(wanted: Range, jobs: int) -> Tally:
    """Run a range in so many processes. Raises CampaignError at the first finding."""
    if jobs == 1:
        return run_range(wanted)
    batches = -(-wanted.count // BATCH)
    step = -(-batches // (jobs * 8)) * BATCH
    starts = range(wanted.first, wanted.first + wanted.count, step)
    end = wanted.first + wanted.count
    parts = [replace(wanted, first=start, count=min(step, end - start)) for start in starts]
    tally = Tally()
    with ProcessPoolExecutor(jobs, mp_context=multiprocessing.get_context("spawn")) as pool:
        try:
            for part in pool.map(run_range, parts):
                tally.add(part)
        except CampaignError:
            pool.shutdown(cancel_futures=True)
            raise
    return tally


def replay(kind: Kind, seed: int, number: int) -> Input:
    """Run an input's batch up to it; the input. Raises CampaignError where the finding still stands."""
    first = number - number % BATCH
    run_range(Range(kind, seed, first, number - first + 1))
    return make_input(make_grammar(), kind, seed, number)
