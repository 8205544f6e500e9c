"""Health checks, outlier detection, retries, backups and waiting: what is refused, what is doubted, what passes."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from balancer.config.load import load
from balancer.config.scalars import duration
from balancer.config.schema_resilience import check_method, check_target, retried, status_range
from balancer.config.validate_resilience import written
from balancer.errors import ConfigError, Problem


def problems(keys: str, backends: str = '"a:1"') -> list[Problem]:
    """Errors and warnings of a file whose pool has `keys`."""
    text = (
        'listeners: {web: {bind: "127.0.0.1:80"}}\nroutes: [{name: all, pool: app}]\n'
        f"pools: {{app: {{{keys}, backends: [{backends}]}}}}\n"
    )
    try:
        return load(text.encode(), "f.yaml", {}).warnings
    except ConfigError as error:
        return error.problems


def only(keys: str, backends: str = '"a:1"') -> Problem:
    found = problems(keys, backends)
    assert len(found) == 1, [str(problem) for problem in found]
    return found[0]


@pytest.mark.parametrize(
    ("written", "path", "right"),
    [
        ("healthz", "", "write `/healthz`"),
        ("http://a/healthz", "", "does not start with /"),
        ("true", "", "write the path, such as /healthz, or {}"),
        ("false", "", "write off"),
        ("[/a]", "", "its keys are type, path"),
        ("{pth: /}", ".pth", "did you mean path?"),
        ("{type: htp}", ".type", "did you mean http?"),
        ("{path: healthz}", ".path", "write `/healthz`"),
        ("{path: /a b}", ".path", "percent-encoded"),
        ("{path: /ä}", ".path", "percent-encoded"),
        ('{path: "/a#b"}', ".path", "fragment"),
        (f"{{path: /{'x' * 9000}}}", ".path", "shorten it"),
        ("{method: get}", ".method", "did you mean GET?"),
        ("{method: CONNECT}", ".method", "write GET, HEAD or OPTIONS"),
        ("{method: trace}", ".method", "write GET, HEAD or OPTIONS"),
        ('{method: "GET /"}', ".method", "is not a method"),
        ("{host: a b}", ".host", "not a host name"),
        ("{headers: {a b: c}}", '.headers["a b"]', "header name"),
        ('{headers: {A: "a\\nb"}}', ".headers.A", "control character"),
        ("{headers: {Host: a}}", ".headers.Host", "write host: in health_check"),
        ("{host: a, headers: {host: b}}", ".headers.host", "exactly one Host"),
        ("{headers: {Content-Length: 1}}", ".headers.Content-Length", "balancer alone"),
        ("{headers: {A: x, a: y}}", ".headers.a", "same field as A"),
        ("{expect_status: 2xx}", ".expect_status", "write 200-299"),
        ("{expect_status: '200, 204'}", ".expect_status", "write a list"),
        ("{expect_status: 399-200}", ".expect_status", "write 200-399"),
        ("{expect_status: [200, 99]}", ".expect_status[1]", "204 or 200-399"),
        ("{expect_status: 101}", ".expect_status", "200 to 599"),
        ("{expect_status: 200-600}", ".expect_status", "200 to 599"),
        ("{expect_status: ok}", ".expect_status", "204 or 200-399"),
        ("{expect_text: ''}", ".expect_text", "remove the key"),
        ("{method: HEAD, expect_text: ok}", ".expect_text", "use the method GET"),
        (f"{{expect_text: {'x' * 9000}}}", ".expect_text", "shorten it"),
        ("{port: 0}", ".port", "write 1 to 65535"),
        ("{port: 65536}", ".port", "out of range"),
        ("{interval: 5}", ".interval", "write 5s"),
        ("{interval: off}", ".interval", "cannot be off"),
        ("{timeout: 0s}", ".timeout", "could mean none or no limit"),
        ("{interval: 1s, timeout: 500}", ".timeout", "has no unit"),
        ("{healthy_after: 0}", ".healthy_after", "write 1 to 100"),
        ("{unhealthy_after: off}", ".unhealthy_after", "cannot be off"),
        ("{type: tcp, path: /}", ".path", "only connects"),
        ("{type: tcp, expect_text: ok}", ".expect_text", "only connects"),
        ("{type: tcp, expect_status: 200}", ".expect_status", "only connects"),
        ("{type: tcp, headers: {A: b}}", ".headers", "only connects"),
    ],
)
def test_what_is_wrong_with_a_health_check_is_found(written: str, path: str, right: str) -> None:
    problem = only(f"health_check: {written}")
    assert (problem.path, problem.warning) == (f"pools.app.health_check{path}", False)
    assert right in problem.message


@pytest.mark.parametrize(
    ("keys", "path", "right"),
    [
        ("outlier_detection: true", "outlier_detection", "its keys are mode"),
        ("outlier_detection: {mode: off}", "outlier_detection.mode", "write outlier_detection: off"),
        ("outlier_detection: {mode: enforced}", "outlier_detection.mode", "did you mean enforce?"),
        ("outlier_detection: {consecutive_failures: 0}", "outlier_detection.consecutive_failures", "write off, or 1"),
        ("outlier_detection: {failure_rate: off}", "outlier_detection.failure_rate", "write false"),
        ("outlier_detection: {max_ejected: 0}", "outlier_detection.max_ejected", "write 1% to 100%"),
        ("outlier_detection: {max_ejected: 0%}", "outlier_detection.max_ejected", "write 1% to 100%"),
        ("outlier_detection: {max_ejected: 0.5}", "outlier_detection.max_ejected", "is not a share"),
        ("outlier_detection: {max_ejected: 101%}", "outlier_detection.max_ejected", "0% to 100%"),
        ("outlier_detection: {max_ejected: off}", "outlier_detection.max_ejected", "cannot be off"),
        ("outlier_detection: {base_ejection: 6m}", "outlier_detection.base_ejection", "above max_ejection (5m)"),
        ("outlier_detection: {max_ejection: 5s}", "outlier_detection.max_ejection", "base_ejection (10s) is above"),
        ("outlier_detection: {base_ejection: 6m, max_ejection: 7}", "outlier_detection.max_ejection", "write 7s"),
        ("retry: 3", "retry", "its keys are attempts"),
        ("retry: {attempts: 0}", "retry.attempts", "write 1 to 10"),
        ("retry: {attempts: 11}", "retry.attempts", "out of range"),
        ("retry: {attempts: off}", "retry.attempts", "cannot be off"),
        ("retry: {when: []}", "retry.when", "write retry: off"),
        ("retry: {when: [connect-failure]}", "retry.when[0]", "did you mean connect_failure?"),
        ("retry: {when: [everything]}", "retry.when[0]", "timeout, a status of 400 to 599"),
        ("retry: {when: [reset, 5xx]}", "retry.when[1]", "[502, 503, 504]"),
        ("retry: {when: 500-599}", "retry.when", "[502, 503, 504]"),
        ("retry: {when: [200]}", "retry.when[0]", "400 to 599"),
        ("retry: {when: [600]}", "retry.when[0]", "400 to 599"),
        ("retry: {budget: 0%}", "retry.budget", "write off, or 0.1% to 100%"),
        ("retry: {budget: 20}", "retry.budget", "write 20%"),
        ("retry: {budget_min: 0}", "retry.budget_min", "write off, or 1"),
        ("slow_start: 0", "slow_start", "write off, or 1ms"),
        ("slow_start: 30", "slow_start", "write 30s"),
        ("panic_threshold: 0", "panic_threshold", "write off, or 1%"),
        ("panic_threshold: 0%", "panic_threshold", "write off, or 1%"),
        ("panic_threshold: 50", "panic_threshold", "write 50%"),
        ("queue_timeout: 0s", "queue_timeout", "write off, or 1ms"),
        ("queue_max: off", "queue_max", "cannot be off"),
        ("queue_max: 0", "queue_max", "write 1 to"),
        ("timeouts: {attempt: 0}", "timeouts.attempt", "write off, or 1ms"),
    ],
)
def test_what_is_wrong_with_the_other_sections_is_found(keys: str, path: str, right: str) -> None:
    problem = only(keys)
    assert (problem.path, problem.warning) == (f"pools.app.{path}", False)
    assert right in problem.message


@pytest.mark.parametrize(
    ("keys", "path", "right"),
    [
        (
            "health_check: {interval: 1s, timeout: 2s}",
            "health_check.timeout",
            "timeout (2s) is above the interval (1s)",
        ),
        ("health_check: {interval: 500ms}", "health_check.interval", "the interval (500ms)"),
        ("health_check: {fast_interval: 6s}", "health_check.fast_interval", "above interval (5s)"),
        (
            "outlier_detection: {consecutive_failures: off, failure_rate: false, latency: false}",
            "outlier_detection",
            "outlier_detection: off",
        ),
        ("retry: {budget: off, budget_min: 5}", "retry.budget_min", "while budget is off"),
        ("queue_timeout: off, queue_max: 5", "queue_max", "while queue_timeout is off"),
        ("timeouts: {attempt: 1s}", "timeouts.attempt", "before connect (3.5s)"),
    ],
)
def test_what_is_doubtful_earns_a_warning(keys: str, path: str, right: str) -> None:
    problem = only(keys)
    assert (problem.path, problem.warning) == (f"pools.app.{path}", True)
    assert right in problem.message


@pytest.mark.parametrize(
    "keys",
    [
        "health_check: {}",
        "health_check: off",
        "health_check: '/a?b=%20'",
        "health_check: {type: tcp, port: 1, interval: 1s, timeout: 1s}",
        "health_check: {method: X-PING, host: 'a:81', headers: {X-A: b}, expect_status: [200-299, 404]}",
        "health_check: {interval: 100ms, timeout: 50ms}",
        "outlier_detection: off, retry: off, slow_start: off, panic_threshold: off, queue_timeout: off",
        "outlier_detection: {mode: observe, max_ejected: 1%}",
        "outlier_detection: {base_ejection: 5m}",
        "panic_threshold: 100%",
        "retry: {attempts: 10, when: [400, 599, timeout], budget: 0.5%}",
        "timeouts: {attempt: 1s, connect: 1s}",
    ],
)
def test_what_is_right_is_left_alone(keys: str) -> None:
    assert problems(keys) == []


def test_a_pool_of_backups_alone_is_refused() -> None:
    spare = '{address: "a:1", backup: true}'
    assert only("retry: off", spare).path == "pools.app.backends"
    assert "at least one no backup" in only("retry: off", spare).message
    assert problems("retry: off", f'{spare}, "b:1"') == []


def test_a_backend_with_a_mistake_may_be_the_one_that_is_no_backup() -> None:
    assert only("retry: off", '{address: "a:1", backup: true}, wrong').path == "pools.app.backends[1]"


def test_a_check_of_a_unix_socket_needs_a_host_to_send() -> None:
    problem = only("health_check: /x", "unix:/a")
    assert (problem.path, problem.warning) == ("pools.app.health_check", False)
    assert "set host" in problem.message
    assert only("health_check: /x, host: keep", "unix:/a").path == "pools.app.health_check"
    for keys in ("health_check: {host: a}", "host: a, health_check: /x", "health_check: {type: tcp}"):
        assert problems(keys, "unix:/a") == []
    assert only("health_check: {type: tcp, port: 5}", "unix:/a").path == "pools.app.health_check.port"


@given(st.integers(1, 86_400_000))
def test_a_duration_in_a_message_is_what_a_file_would_say(milliseconds: int) -> None:
    assert duration(written(milliseconds / 1000)) == pytest.approx(milliseconds / 1000, rel=1e-9)


@pytest.mark.parametrize(("seconds", "text"), [(3600.0, "1h"), (300.0, "5m"), (3.5, "3.5s"), (0.25, "250ms")])
def test_a_duration_in_a_message_has_its_plainest_unit(seconds: float, text: str) -> None:
    assert written(seconds) == text


@given(st.text(max_size=12) | st.from_regex(r"[/A-Z0-9x#% -]{0,10}", fullmatch=True))
def test_accepted_parts_make_a_request_line_and_lawful_statuses(text: str) -> None:
    for parse in (check_target, check_method):
        try:
            value = parse(text)
        except ValueError:
            continue
        assert value == text
        assert value.isascii()
        assert value.isprintable()
        assert " " not in value
    try:
        first, last = status_range(text)
    except ValueError:
        pass
    else:
        assert 200 <= first <= last <= 599
    try:
        word = retried(text)
    except ValueError:
        return
    assert word in ("connect_failure", "reset", "timeout") or 400 <= int(word) <= 599
