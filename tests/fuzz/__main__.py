"""`python -m tests.fuzz`: fuzz the data path and the coordination API, print what became of it, fail at a finding."""

import argparse
import sys
import time
from typing import get_args

from balancer.http1.plain_heads import COMPILED
from tests.fuzz import gateway_campaign
from tests.fuzz.campaign import VALID_SHARE, CampaignError, Kind, Range, replay, run
from tests.fuzz.findings import FindingError


def main() -> int:
    """Run what the command line says; the exit status."""
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz", description=__doc__)
    parser.add_argument("--requests", type=int, default=20_000, help="inputs of clients (20000)")
    parser.add_argument("--responses", type=int, default=10_000, help="inputs of backends (10000)")
    parser.add_argument("--gateway", type=int, default=10_000, help="requests to the coordination API (10000)")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--jobs", type=int, default=1, help="processes (1)")
    parser.add_argument("--replay", metavar="KIND:SEED:NUMBER", help="run one input again")
    arguments = parser.parse_args()
    try:
        if arguments.replay:
            return _replay(arguments.replay)
        counts: dict[Kind, int] = {"requests": arguments.requests, "responses": arguments.responses}
        good = [_campaign(Range(kind, arguments.seed, 0, count), arguments.jobs) for kind, count in counts.items()]
        good.append(not arguments.gateway or gateway_campaign.report(arguments.seed, arguments.gateway, arguments.jobs))
    except (CampaignError, FindingError) as error:
        print(error)
        return 1
    return 0 if all(good) else 1


def _campaign(wanted: Range, jobs: int) -> bool:
    if not wanted.count:
        return True
    start = time.monotonic()
    tally = run(wanted, jobs)
    seconds = time.monotonic() - start
    reader = "in C" if COMPILED else "in Python"
    print(
        f"{wanted.kind}: {tally.inputs} inputs of seed {wanted.seed}, plain heads read {reader}, "
        f"{tally.valid_share:.1%} valid, "
        f"{seconds:.1f} s, {seconds / tally.inputs * 1e6:.0f} us each"
    )
    for label, count in tally.labels.most_common():
        print(f"  {label}: {count}")
    if tally.valid_share < VALID_SHARE:
        print(f"  fewer than {VALID_SHARE:.0%} are valid: the grammar makes too much rubbish")
    return tally.valid_share >= VALID_SHARE


def _replay(text: str) -> int:
    kind, _, numbers = text.partition(":")
    seed, _, number = numbers.partition(":")
    if kind not in (*get_args(Kind), "gateway") or not (seed + number).isdecimal():
        print(f"--replay {text}: should be requests:SEED:NUMBER, responses:SEED:NUMBER or gateway:SEED:NUMBER")
        return 2
    if kind == "gateway":
        print(f"{gateway_campaign.replay(int(seed), int(number))!r:.3000}")
    else:
        print(replay("requests" if kind == "requests" else "responses", int(seed), int(number)))
    print("no finding")
    return 0


if __name__ == "__main__":
    sys.exit(main())
