"""`python -m tests.conformance`: run every case at our daemon, nginx and HAProxy, and write docs/conformance.md.

Exit: 0 = our daemon holds every case and the page is written, 1 = it does not, 2 = a target cannot be run.
"""

import sys
from pathlib import Path

import click

from tests.conformance.catalogue import CASES
from tests.conformance.model import Case
from tests.conformance.session import Session
from tests.conformance.table import TargetResult, render
from tests.support.peers import TARGETS, TargetError

PAGE = Path(__file__).resolve().parents[2] / "docs" / "conformance.md"


def run_target(name: str, cases: list[Case]) -> TargetResult:
    """Every case, whole, at one target."""
    target = TARGETS[name]()
    result = TargetResult(name, target.version)
    with Session(target) as session, click.progressbar(length=len(cases), label=f"{name:9}", file=sys.stderr) as bar:
        for case, seen, problems in session.observations(cases, lambda _: bar.update(1)):
            result.add(case, seen, problems)
    return result


@click.command()
@click.option("--target", "names", multiple=True, type=click.Choice(list(TARGETS)), help="Only these targets; no page.")
@click.option("--cases", default="", help="Only cases whose name contains this; no page.")
def main(names: tuple[str, ...], cases: str) -> None:
    """Run the conformance suite at all targets and write docs/conformance.md."""
    chosen = [case for case in CASES if cases in case.name]
    try:
        results = [run_target(name, chosen) for name in names or TARGETS]
    except TargetError as error:
        click.echo(f"conformance: {error}", err=True)
        sys.exit(2)
    for result in results:
        differing = [name for name, outcome in result.outcomes.items() if outcome.problems]
        click.echo(f"{result.version}: {len(chosen) - len(differing)} of {len(chosen)} cases as ours")
        if names or cases:
            for name in differing:
                click.echo(f"  {name}: {result.outcomes[name].did}")
    if not names and not cases:
        PAGE.write_text(render(results, chosen), encoding="utf-8")
        click.echo(f"written: {PAGE.relative_to(Path.cwd()) if PAGE.is_relative_to(Path.cwd()) else PAGE}")
    failed = any(o.problems for result in results if result.name == "balancer" for o in result.outcomes.values())
    sys.exit(1 if failed else 0)


if __name__ == "__main__":
    main()
