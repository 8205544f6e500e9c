"""reload, drain, undrain and weight against a real admin address."""

from collections.abc import Iterator

import pytest
from click.testing import CliRunner, Result

from balancer.admin.api import AdminApi
from balancer.admin.changes import OutOfReachError, RefusedChangeError, ReloadResult, UncertainChangeError
from balancer.cli.main import main
from tests.support.admin_address import Supervisor, served


class Here:
    """A supervisor, and commands that talk to it."""

    def __init__(self, supervisor: Supervisor, url: str) -> None:
        self.supervisor = supervisor
        self.url = url

    def run(self, *arguments: str) -> Result:
        return CliRunner().invoke(main, [*arguments, "--admin", self.url])


@pytest.fixture
def here() -> Iterator[Here]:
    supervisor = Supervisor()
    with served(AdminApi(supervisor, None, frozenset(), supervisor)) as url:
        yield Here(supervisor, url)


# ---- drain, undrain, weight


def test_a_drain_holds_until_undrain(here: Here) -> None:
    result = here.run("drain", "api", "a")
    assert (result.exit_code, result.stdout) == (
        0,
        "pool api: backend a drains: no new work, what is in flight finishes\n",
    )
    assert here.supervisor.live.drained("api", "a")
    result = here.run("undrain", "api", "a")
    assert (result.exit_code, result.stdout) == (0, "pool api: backend a takes work again\n")
    assert not here.supervisor.live


def test_a_weight_is_set(here: Here) -> None:
    result = here.run("weight", "api", "a", "7")
    assert (result.exit_code, result.stdout, result.stderr) == (0, "pool api: backend a has weight 7\n", "")
    assert here.supervisor.live.weight("api", "a") == 7


def test_a_weight_that_the_strategy_ignores_is_set_with_a_note(here: Here) -> None:
    result = here.run("weight", "odd/[pool]", "127.0.0.1:9001", "7")
    assert result.exit_code == 0
    assert result.stderr == "note: the strategy of pool odd/[pool], round_robin, ignores weights (but for 0)\n"
    assert here.supervisor.live.weight("odd/[pool]", "127.0.0.1:9001") == 7
    assert here.run("weight", "odd/[pool]", "127.0.0.1:9001", "0").stderr == ""


@pytest.mark.parametrize("weight", ["-1", "65536", "x", "1.5"])
def test_what_is_no_weight_is_not_sent(here: Here, weight: str) -> None:
    assert here.run("weight", "api", "a", "--", weight).exit_code == 2
    assert not here.supervisor.live


@pytest.mark.parametrize("command", [["drain"], ["undrain"], ["weight"]])
def test_what_is_not_there_is_told_with_what_is(here: Here, command: list[str]) -> None:
    number = ["2"] if command == ["weight"] else []
    result = here.run(*command, "api", "z", *number)
    assert result.exit_code == 1
    assert result.stderr == "Error: there is no backend `z` in pool `api`; there are: `a`, `b`\n"


def test_status_shows_the_live_value_beside_the_files(here: Here) -> None:
    here.run("weight", "api", "a", "7")
    here.run("drain", "api", "b")
    output = here.run("status").stdout
    row = {words[0]: words for line in output.splitlines() if (words := line.split())}
    assert row["a"][2:6] == ["up", "7", "(file", "3)"]
    assert row["b"][2:4] == ["draining", "1"]


def test_with_the_option_all_balancers_are_meant(here: Here) -> None:
    here.supervisor.notes = ["here it stays drained: that was begun at this balancer alone"]
    for arguments, told in (
        (["drain", "api", "a"], "a drains in the whole cluster: no new work, what is in flight finishes"),
        (["undrain", "api", "a"], "a takes work again in the whole cluster"),
        (["weight", "api", "a", "7"], "a has weight 7 in the whole cluster"),
        (["weight", "api", "a", "file"], "a has the weight of its entry again in the whole cluster"),
    ):
        result = here.run(*arguments, "--cluster")
        assert (result.exit_code, result.stdout) == (0, f"pool api: backend {told}\n")
        assert result.stderr == f"note: {here.supervisor.notes[0]}\n"
    assert here.supervisor.everywhere == [
        ("api", "a", None, True),
        ("api", "a", None, False),
        ("api", "a", 7, None),
        ("api", "a", "file", None),
    ]
    assert not here.supervisor.live


def test_the_word_file_ends_a_live_weight(here: Here) -> None:
    here.run("weight", "api", "a", "7")
    result = here.run("weight", "api", "a", "file")
    assert (result.exit_code, result.stdout) == (0, "pool api: backend a has the weight of its entry again\n")
    assert not here.supervisor.live


@pytest.mark.parametrize("fault", [RefusedChangeError("this"), OutOfReachError("that"), UncertainChangeError("or so")])
def test_what_cannot_be_done_is_said_with_the_exit_status_of_a_refusal(here: Here, fault: Exception) -> None:
    here.supervisor.fault = fault
    result = here.run("drain", "api", "a", "--cluster")
    assert (result.exit_code, result.stdout, result.stderr) == (1, "", f"Error: {fault}\n")


@pytest.mark.parametrize("command", ["drain", "undrain", "weight"])
def test_the_help_tells_of_the_option(command: str) -> None:
    assert "--cluster" in CliRunner().invoke(main, [command, "--help"]).stdout


# ---- reload


def test_a_reload_tells_what_changed(here: Here) -> None:
    here.supervisor.result = ReloadResult(
        True, 5, ["pool api: +1 backend", "route x is new"], ["b.yaml:1:1: a warning"]
    )
    result = here.run("reload")
    assert result.exit_code == 0
    assert result.stdout == "pool api: +1 backend\nroute x is new\nreloaded: generation 5 is in use\n"
    assert result.stderr == "b.yaml:1:1: a warning\n"
    assert here.supervisor.reloads == [(False, False)]


def test_a_reload_without_a_change_says_so(here: Here) -> None:
    here.supervisor.result = ReloadResult(True, 1)
    assert here.run("reload").stdout.splitlines()[0] == "nothing differs from what is in use"


def test_options_of_a_reload_arrive(here: Here) -> None:
    result = here.run("reload", "--dry-run")
    assert result.stdout.splitlines()[-1] == "dry run: nothing was changed, generation 2 is in use"
    here.run("reload", "--discard-live")
    here.run("reload", "--discard-live", "--dry-run")
    assert here.supervisor.reloads == [(True, False), (False, True), (True, True)]


def test_a_refused_reload_prints_every_problem_and_exits_1(here: Here) -> None:
    here.supervisor.result = ReloadResult(False, 4, [], ["b.yaml:3:1: pools: is wrong", "b.yaml:4:1: routes: is wrong"])
    result = here.run("reload")
    assert (result.exit_code, result.stdout) == (1, "")
    assert result.stderr.splitlines() == [
        "b.yaml:3:1: pools: is wrong",
        "b.yaml:4:1: routes: is wrong",
        "refused: nothing was changed, generation 4 stays in use",
    ]


def test_a_daemon_that_cannot_reload_is_exit_1() -> None:
    with served(AdminApi(Supervisor(), None, frozenset())) as url:
        result = CliRunner().invoke(main, ["reload", "--admin", url])
    assert result.exit_code == 1
    assert "there is nothing here" in result.stderr
