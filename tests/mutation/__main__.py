"""python -m tests.mutation [NN ...]: plant the known bugs of other systems, one at a time, and see that the tests find
each. NN: only the bugs with these numbers, or the patches of these names.

Exit: 0 = all were found; 1 = some were not, or a patch does not apply, or the tests fail without any.
"""

import argparse
import sys
import time
from collections.abc import Sequence

from tests.mutation.patch import Patch, PatchError, applied
from tests.mutation.suite import CHECKER, NAMED, Verdict, judged, missing, needed_tests, patches, wrongly_found
from tests.mutation.tree import RunError, copied, failing_tests, read_source

ROW = "{:42} {:10} {:>6} {:>8}  {}"


def main() -> int:
    """The command."""
    parser = argparse.ArgumentParser(prog="python -m tests.mutation", description=__doc__)
    parser.add_argument("wanted", nargs="*", metavar="NN")
    wanted = parser.parse_args().wanted
    began = time.monotonic()
    try:
        known = patches()
        chosen = [patch for patch in known if not wanted or _is_wanted(patch, wanted)]
        problems = [f"bug {number} is neither planted nor named" for number in missing(known)]
        if not chosen:
            problems.append(f"there is no patch {' '.join(wanted)}")
        for patch in chosen:
            applied(patch, read_source)  # before anything is run
        problems = problems or _unpatched(needed_tests(chosen)) or _planted(chosen)
    except (PatchError, RunError) as error:
        problems = [str(error)]
    for problem in problems:
        print(f"PROBLEM {problem}")
    seconds = f"{time.monotonic() - began:.0f} s"
    if problems:
        print(f"\n{seconds}: not as it should be")
        return 1
    count = len({patch.number for patch in chosen})
    print(f"\n{seconds}: {count} known bugs, planted by {len(chosen)} patches, are found")
    return 0


def _planted(chosen: Sequence[Patch]) -> list[str]:
    """What is wrong with any of them, or with how they were found."""
    verdicts = _all_judged(chosen)
    problems = [f"{each.patch.name}: {problem}" for each in verdicts for problem in each.problems]
    problems += wrongly_found(verdicts)
    _tell_named()
    return problems


def _is_wanted(patch: Patch, wanted: Sequence[str]) -> bool:
    return any(each == patch.name or (each.isdecimal() and int(each) == patch.number) for each in wanted)


def _unpatched(tests: Sequence[str]) -> list[str]:
    """What fails without any patch."""
    began = time.monotonic()
    with copied() as tree:
        failed = failing_tests(tree, tests)
    if not failed:
        print(f"without a patch: {len(tests)} tests pass, {time.monotonic() - began:.1f} s", flush=True)
    return [f"without any patch, {test}: {reason}" for test, reason in failed.items()]


def _all_judged(chosen: Sequence[Patch]) -> list[Verdict]:
    print("\n" + ROW.format("planted", "found by", "seeds", "seconds", "how"))
    verdicts = []
    for patch in chosen:
        verdict = judged(patch)
        verdicts.append(verdict)
        for each in verdict.found:
            print(ROW.format(patch.name, each.by, each.seeds or "", f"{each.seconds:.1f}", each.how[:100]))
        if verdict.problems:
            print(ROW.format(patch.name, "NOT FOUND", "", "", verdict.problems[0][:100]))
        sys.stdout.flush()
    return verdicts


def _tell_named() -> None:
    """They passed with all others, or we were not here."""
    print("\nnot planted, shown to be absent by tests that pass:")
    for named in NAMED:
        print(f"{named.number:02} {named.bug} ({named.seen_in}). No patch: {named.why}.")
        print("\n".join(f"   {test}" for test in named.tests))
    print("\nthe checker refuses what it must: a planted stale read, a planted double lock:")
    print("\n".join(f"   {test}" for test in CHECKER))


if __name__ == "__main__":
    sys.exit(main())
