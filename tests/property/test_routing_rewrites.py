"""Rewrites, redirects and header edits against plain models of them."""

from hypothesis import assume, example, given, settings
from hypothesis import strategies as st

from balancer.config.model import HeaderEdits, Rewrite
from balancer.errors import ProtocolError
from balancer.http1.target import normalise_path
from balancer.routing.edits import HeaderEditor
from balancer.routing.redirect import location
from balancer.routing.rewrite import rewrite_target

UNTIMED = settings(deadline=None)  # how long an example takes says something about the machine only

PIECES = st.sampled_from([b"/", b"/", b"//", b"v1", b"%761", b"a", b".", b"..", b"%2e", b"%2F", b"*", b"@", b"{host}"])
PATHS = st.lists(PIECES, max_size=10).map(lambda pieces: b"/" + b"".join(pieces))
PREFIXES = st.sampled_from(["/v1", "/v1/", "/", "/a", "/v1/a"])
REPLACEMENTS = st.sampled_from(["", "/", "/new", "/new/"])


@example("/", "/new", b"/..", b"")  # dot segments must not climb out of the replacement
@given(PREFIXES, REPLACEMENTS, PATHS, st.sampled_from([b"", b"?", b"?q=/v1"]))
@UNTIMED
def test_a_rewritten_path_means_what_rewriting_its_normal_form_means(
    strip: str, replace: str, path: bytes, query: bytes
) -> None:
    result = rewrite_target(Rewrite(strip_prefix=strip, replace_prefix=replace), path + query)
    sent, mark, kept_query = result.partition(b"?")
    assert mark + kept_query == query
    normal = normalise_path(path)
    prefix = strip.encode().rstrip(b"/")
    if normal != prefix and not normal.startswith(prefix + b"/"):
        assert sent == path
        return
    assert sent.startswith(b"/")
    assert not sent.startswith(b"//")
    expected = replace.encode().rstrip(b"/") + normal[len(prefix) :] or b"/"
    assert normalise_path(sent) == expected


@given(
    st.sampled_from(["{path}", "/{path}", "/x{path}{query}", "{path}{query}", "/{query}"]),
    st.binary(max_size=20).map(lambda tail: b"/" + tail) | PATHS,
    st.binary(max_size=10),
)
@UNTIMED
def test_a_redirect_to_a_path_stays_on_this_host_and_on_its_line(to: str, path: bytes, query: bytes) -> None:
    result = location(to, scheme=b"http", host=b"h", path=path, query=query)
    assert result.startswith(b"/")
    assert not result.startswith((b"//", b"/\\"))
    assert all(0x20 < octet < 0x7F for octet in result)


@given(st.text(min_size=1, max_size=8), st.binary(max_size=20))
@UNTIMED
def test_a_redirect_to_another_host_keeps_that_host(to: str, path: bytes) -> None:
    result = location("https://good.example{path}", scheme=b"http", host=b"h", path=path, query=to.encode())
    assert result.startswith(b"https://good.example/")


NAMES = st.sampled_from(["A", "a", "B", "x-a", "X-A", "C"])
VALUES = st.text(st.characters(min_codepoint=32, max_codepoint=126), max_size=4)
LINES = st.lists(st.tuples(NAMES, VALUES), max_size=6)


@given(
    LINES,
    st.lists(NAMES, max_size=2),
    st.dictionaries(NAMES, VALUES, max_size=2),
    st.dictionaries(NAMES, VALUES, max_size=2),
)
@UNTIMED
def test_edits_equal_editing_a_list_of_lines(
    lines: list[tuple[str, str]], remove: list[str], replaced: dict[str, str], added: dict[str, str]
) -> None:
    gone = {name.lower() for name in (*remove, *replaced)}
    expected = [line for line in lines if line[0].lower() not in gone]
    expected += [*replaced.items(), *added.items()]
    editor = HeaderEditor(HeaderEdits(set=replaced, add=added, remove=tuple(remove)))

    def head(pairs: list[tuple[str, str]]) -> bytes:
        return "".join(f"\r\n{name}: {value}" for name, value in pairs).encode()

    assert editor.apply(head(lines)) == head(expected)


@given(st.binary(max_size=12))
@UNTIMED
def test_rewriting_any_bytes_gives_a_path_or_a_refusal(tail: bytes) -> None:
    assume(b"\n" not in tail)
    try:
        result = rewrite_target(Rewrite(strip_prefix="/v1"), b"/v1" + tail)
    except ProtocolError:
        return
    assert result.startswith(b"/")
