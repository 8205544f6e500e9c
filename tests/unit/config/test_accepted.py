"""What validation accepts, the parts that use it can compile: nobody else refuses a configuration later."""

from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from balancer.config import addresses
from balancer.config.load import load
from balancer.config.model import HeaderEdits, Match
from balancer.errors import ConfigError
from balancer.http1.target import check_host
from balancer.routing.edits import HeaderEditor
from balancer.routing.table import RoutingTable

TEXTS = st.text(max_size=30) | st.from_regex(r"[-a-z0-9.*:\[\]/%\\# A-F]{0,20}", fullmatch=True)


def table(match: Match) -> None:
    """Compile one route."""
    RoutingTable([(match, 0)])


@pytest.mark.parametrize(
    ("parse", "use"),
    [
        (addresses.url_path, lambda text: table(Match(path=text))),
        (addresses.url_path, lambda text: table(Match(path_prefix=text))),
        (addresses.host_pattern, lambda text: table(Match(hosts=(text,)))),
        (addresses.host_pattern, lambda text: check_host(text.removeprefix("*.").encode())),
        (addresses.authority, lambda text: check_host(text.encode())),
        (addresses.network, lambda text: table(Match(client=(text,)))),
        (addresses.header_name, lambda text: table(Match(headers={text.lower(): "x"}))),
        (addresses.header_value, lambda text: HeaderEditor(HeaderEdits(set={"x": text}))),
    ],
)
def test_an_accepted_value_can_be_used(parse: Callable[[str], str], use: Callable[[str], object]) -> None:
    @given(TEXTS)
    def check(text: str) -> None:
        try:
            value = parse(text)
        except ValueError:
            return
        use(value)

    check()


@pytest.mark.parametrize("host", ["api.example.com", "[0::1]", "10.0.0.1", "A_b.Example."])
def test_a_host_pattern_has_the_form_in_which_requests_are_compared(host: str) -> None:
    assert check_host(host.encode()).decode() == addresses.host_pattern(host)


@given(st.text(max_size=12) | st.from_regex(r"[a-z()\[\]{}*+?|\\0-9,.^$]{0,12}", fullmatch=True))
def test_an_accepted_regular_expression_compiles(pattern: str) -> None:
    written = pattern.encode("utf-8", "ignore").decode().replace("$", "$$").replace("'", "''")
    route = f"{{name: a, respond: {{}}, match: {{path_regex: '{written}'}}}}"
    text = f"listeners: {{w: {{bind: '127.0.0.1:1'}}}}\nroutes: [{route}]"
    try:
        config = load(text.encode(), "f", {}).config
    except ConfigError:
        return
    table(config.routes[0].match)
