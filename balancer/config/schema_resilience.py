"""The schema of what keeps a pool serving: health checks, outlier detection, retries."""

import re
from typing import Annotated, Any, ClassVar

from balancer.config import addresses
from balancer.config.fields import (
    Boolean,
    HeaderName,
    HeaderValue,
    Kind,
    choice,
    did_you_mean,
    duration,
    duration_or_off,
    integer,
    integer_or_off,
    of,
    share,
    share_or_off,
)
from balancer.config.scalars import integer as whole_number
from balancer.config.scalars import shown
from balancer.config.schema_base import Base, OneOrMany, key

FAILURES = ("connect_failure", "reset", "timeout")
_A_STATUS = "a status of 400 to 599"
_METHOD = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]{1,64}", re.ASCII)
_RANGE = re.compile(r"([0-9]{3})(?: ?- ?([0-9]{3}))?", re.ASCII)
_STATUS_CLASS = re.compile(r"([2-5])xx", re.IGNORECASE)
_RANGE_SCHEMA: dict[str, Any] = {
    "anyOf": [
        {"type": "integer", "minimum": 200, "maximum": 599},
        {"type": "string", "pattern": r"^([2-5][0-9]{2}( ?- ?[2-5][0-9]{2})?|.*\$\{.*)$"},
    ]
}
_WHEN_SCHEMA: dict[str, Any] = {
    "anyOf": [
        {"enum": list(FAILURES)},
        {"type": "integer", "minimum": 400, "maximum": 599},
        {"type": "string", "pattern": r"\$\{"},
    ]
}


def check_target(text: str) -> str:
    """A path with an optional query, as it stands in the request line of a check (RFC 9112 section 3.2.1)."""
    if not text.startswith("/"):
        raise ValueError(f"{shown(text)} does not start with /; write {shown('/' + text)}")
    if not all("!" <= char <= "~" for char in text):
        raise ValueError(f"{shown(text)} holds a blank or a character that no request may; write it percent-encoded")
    if "#" in text:
        raise ValueError(f"{shown(text)} holds a fragment, which is never sent; remove it, or write %23")
    if len(text) > 8192:
        raise ValueError("has more than 8,192 characters, which backends refuse; shorten it")
    return str(text)


def check_method(text: str) -> str:
    """A request method that a check may use: any token but the two that no backend answers plainly."""
    if text.upper() in ("CONNECT", "TRACE"):
        raise ValueError(f"{shown(text)} asks for a tunnel or an echo, not for health; write GET, HEAD or OPTIONS")
    if text not in addresses.METHODS and text.upper() in addresses.METHODS:
        raise ValueError(f"{shown(text)} is not a method, they are case-sensitive; did you mean {text.upper()}?")
    if not _METHOD.fullmatch(text):
        raise ValueError(f"{shown(text)} is not a method; write GET, HEAD or OPTIONS")
    return str(text)


def status_range(text: str) -> tuple[int, int]:
    """First and last status of `204` or `200-299`."""
    whole = _STATUS_CLASS.fullmatch(text)
    if whole is not None:
        raise ValueError(f"{shown(text)} is not a status; write {whole[1]}00-{whole[1]}99")
    if "," in text:
        raise ValueError(f"{shown(text)} is not one status; write a list, such as [200-299, 404]")
    found = _RANGE.fullmatch(text)
    if found is None:
        raise ValueError(f"{shown(text)} is not a status or a range of them; write such as 204 or 200-399")
    first = int(found[1])
    last = int(found[2] or found[1])
    if first > last:
        raise ValueError(f"{shown(text)} runs backwards; write {last}-{first}")
    if first < 200 or last > 599:
        raise ValueError(f"{shown(text)} is out of range; a check's answer has a status of 200 to 599")
    return first, last


def retried(text: str) -> str:
    """A word or a status that says which failures are tried again."""
    if text in FAILURES:
        return str(text)
    if not text[:1].isdigit():
        raise ValueError(f"{shown(text)} is not possible; {did_you_mean(text, (*FAILURES, _A_STATUS))}")
    if _STATUS_CLASS.fullmatch(text) or "-" in text:
        raise ValueError(f"{shown(text)} is not one status; list them, such as [502, 503, 504]")
    status = whole_number(text)
    if not 400 <= status <= 599:
        raise ValueError(f"{shown(text)} is not the status of a failure; write 400 to 599")
    return str(status)


def _expected_text(text: str) -> str:
    if not text:
        raise ValueError("is empty, and every answer holds that; write a text, or remove the key")
    if len(text.encode()) > 8192:
        raise ValueError("has more than 8,192 bytes; shorten it")
    return str(text)


def _mode(text: str) -> str:
    if text == "off":
        raise ValueError("`off` is not a mode; write outlier_detection: off, or mode: observe to count and do nothing")
    return str(choice("observe", "enforce").parse(text))


StatusRange = Annotated[tuple[int, int], Kind("status or range", status_range, _RANGE_SCHEMA)]
Retried = Annotated[str, Kind("connect_failure, reset, timeout or status", retried, _WHEN_SCHEMA)]


class HealthCheck(Base):
    """Active checks of every backend. A bare string is the path; {} takes all defaults."""

    short: ClassVar[str] = "path"

    @classmethod
    def from_short(cls, text: str) -> dict[str, Any]:
        """A bare string is the path, but for words that are meant as a switch."""
        if text in ("true", "on", "yes"):
            raise ValueError(f"{shown(text)} does not say what to check; write the path, such as /healthz, or {{}}")
        if text in ("false", "no", "none"):
            raise ValueError(f"{shown(text)} is not possible; write off")
        return {cls.short: text}

    type: Annotated[str, choice("http", "tcp")] = key(
        "http",
        description="What is checked: an HTTP answer, or only that a connection is accepted. http: a backend that "
        "hangs still accepts connections.",
    )
    path: Annotated[str, of("path", check_target)] = key(
        "/", description="Path, and query if any, that is asked for. /: every site has it; better is a path of its own."
    )
    method: Annotated[str, of("method", check_method)] = key(
        "GET", description="Method of the check, in capitals. GET: every application answers it."
    )
    host: Annotated[str, of("host", addresses.authority)] | None = key(
        None,
        description="The Host field of the check. Unset: the pool's `host` where that is a name, else the backend's "
        "host as written.",
    )
    headers: dict[HeaderName, HeaderValue] = key(dict, description="Further header fields of the check. Empty: none.")
    expect_status: Annotated[list[StatusRange], OneOrMany()] = key(
        "200-399",
        description="Statuses that mean healthy: 204, 200-299, or a list of such. 200-399: a redirect, which is not "
        "followed, still comes from a working application.",
    )
    expect_text: Annotated[str, of("text", _expected_text)] | None = key(
        None,
        description="Text that must stand within the first 64 KiB of the answer's content. Unset: the status decides.",
    )
    port: Annotated[int, integer(1, 65535)] | None = key(
        None, description="Port that is checked. Unset: the backend's own, so that what is checked is what serves."
    )
    interval: Annotated[float, duration("10ms", "24h")] = key(
        "5s", description="Time between two checks of a backend, +-10 %. 5s: an outage is found within 15 s."
    )
    fast_interval: Annotated[float, duration("10ms", "24h")] = key(
        "1s",
        description="The same, until the first verdict and while results differ from the state; never longer than "
        "`interval`. 1s: a change is settled in seconds, and only then costs more.",
    )
    timeout: Annotated[float, duration("1ms", "10m")] = key(
        "2s", description="Time for the whole check, connecting included. 2s: a slower answer is no sign of health."
    )
    healthy_after: Annotated[int, integer(1, 100)] = key(
        2,
        description="Good checks in a row until an unhealthy backend is used again; its very first decides alone. "
        "2: one good answer may be luck.",
    )
    unhealthy_after: Annotated[int, integer(1, 100)] = key(
        3,
        description="Bad checks in a row until a healthy backend is left out. 3: one lost packet is not enough.",
    )


class OutlierDetection(Base):
    """Judging backends by the outcomes of real traffic, and ejecting those that fail."""

    mode: Annotated[str, Kind("observe or enforce", _mode, {"enum": ["observe", "enforce"]})] = key(
        "enforce",
        description="enforce: backends that fail are ejected. observe: it is only counted and logged what would be "
        "done. enforce is the default, because waiting for a check costs requests.",
    )
    consecutive_failures: Annotated[int | None, integer_or_off(1, 1000)] = key(
        5,
        description="Failures in a row, all workers together, that eject a backend, or off. 5: single failures "
        "pass, a dead backend is gone after five requests.",
    )
    failure_rate: Boolean = key(
        True,
        description="Eject a backend that fails much more often than the rest of the pool. true: half-broken backends "
        "seldom fail five times in a row.",
    )
    latency: Boolean = key(
        True,
        description="Lower the weight of a backend that is much slower than the rest of the pool. true: it is not "
        "ejected, so the price of a wrong guess is small.",
    )
    silent_after: Annotated[float | None, duration_or_off("10ms", "1h")] = key(
        "100ms",
        description="Time after which a backend at which five or more requests wait, none of them answered, gets no "
        "further ones until it answers; or off. It is longer for one that has answered later than that. Never more "
        "than half of a pool. 100ms: long for an answer to all of five, short beside any timeout.",
    )
    window: Annotated[float, duration("100ms", "1h")] = key(
        "10s", description="Time over which failure rate and latency are judged. 10s: enough requests, recent enough."
    )
    base_ejection: Annotated[float, duration("10ms", "24h")] = key(
        "10s",
        description="How long the first ejection lasts; later ones last longer, and good conduct shortens them again. "
        "10s: what most restarts take.",
    )
    max_ejection: Annotated[float, duration("10ms", "24h")] = key(
        "5m", description="How long an ejection lasts at most. 5m: a repaired backend is found without an operator."
    )
    max_ejected: Annotated[float, share("1%", "100%")] = key(
        "50%",
        description="Share of the pool's backends that may be ejected at a time; of two or more one always may be, the "
        "last one never. 50%: when most fail, the cause is elsewhere, and the rest could not bear the load.",
    )


class Retry(Base):
    """Further attempts of a request whose first one failed, on another backend where there is one."""

    attempts: Annotated[int, integer(1, 10)] = key(
        2,
        description="Attempts of one request, the first included; 1 = none further. Those of which nothing was sent do "
        "not count, up to five, while there is a backend that was not tried. 2: a second backend saves nearly all that "
        "can be saved, a third one mostly adds load.",
    )
    when: Annotated[list[Retried], OneOrMany()] = key(
        [*FAILURES, 502, 503, 504],
        description="What is tried again: connect_failure (refused, or not in time), reset (a connection that ends, or "
        "an answer that is none), timeout (`first_byte`, `attempt`), statuses 400 to 599. Once a part was sent, only "
        "idempotent methods are, unless the route says otherwise. These: failures of the backend; a 500 is mostly "
        "the application's own answer to that request.",
    )
    budget: Annotated[float | None, share_or_off("0.1%", "100%")] = key(
        "20%",
        description="Further attempts per request of the pool, all workers together, or off for no limit; free after "
        "those that do not count. 20%: saves what a few bad backends fail; never multiplies the load of a pool that "
        "fails as a whole.",
    )
    budget_min: Annotated[int, integer_or_off(1, 100_000, off=0)] = key(
        3,
        description="Further attempts per second that are allowed beside the budget, or off for none. 3: with little "
        "traffic 20% of it would be nothing.",
    )
