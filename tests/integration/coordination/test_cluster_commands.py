"""`balancer cluster ...` against a real etcd: what it prints, how it exits, what becomes of a command under a lock."""

import asyncio
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from balancer.cli.main import main
from balancer.consensus.client import Coordination
from balancer.coordination.responses import KeyValue
from tests.support.cables import Cable
from tests.support.coordination_etcd import Etcd
from tests.support.coordination_fake import CUT, FakeGateway, ok, refused

pytestmark = pytest.mark.real_part("etcd")

PATIENCE = 30.0


@pytest.fixture(scope="module")
def etcd(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Etcd]:
    with Etcd(tmp_path_factory.mktemp("etcd")) as running:
        yield running


@pytest.fixture(autouse=True)
def empty(etcd: Etcd) -> None:
    async def scenario() -> None:
        async with Coordination(etcd.urls) as client:
            await client.delete_prefix("")

    asyncio.run(scenario())


def keys(etcd: Etcd, prefix: str = "") -> tuple[KeyValue, ...]:
    async def scenario() -> tuple[KeyValue, ...]:
        async with Coordination(etcd.urls) as client:
            return (await client.get_prefix(prefix)).kvs

    return asyncio.run(scenario())


def delete(etcd: Etcd, prefix: str) -> None:
    async def scenario() -> None:
        async with Coordination(etcd.urls) as client:
            await client.delete_prefix(prefix)

    asyncio.run(scenario())


def until(holds: Callable[[], object]) -> None:
    end = time.monotonic() + PATIENCE
    while not holds():
        assert time.monotonic() < end
        time.sleep(0.01)


def run(etcd: Etcd, *words: str, stdin: bytes = b"", environ: dict[str, str] | None = None) -> Result:
    """A command, in this process."""
    return CliRunner().invoke(
        main, ["cluster", *words], input=stdin, env={"BALANCER_ENDPOINTS": ",".join(etcd.urls)} | (environ or {})
    )


@contextmanager
def started(etcd: Etcd, *words: str) -> Iterator["subprocess.Popen[bytes]"]:
    """A command in a process of its own, killed at the end."""
    process = subprocess.Popen(
        [sys.executable, "-m", "balancer", "cluster", *words],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env={**os.environ, "BALANCER_ENDPOINTS": ",".join(etcd.urls)},
    )
    try:
        yield process
    finally:
        if process.poll() is None:
            process.kill()
        process.communicate()


def line(process: "subprocess.Popen[bytes]") -> str:
    assert process.stdout is not None
    return process.stdout.readline().decode().strip()


def ended(process: "subprocess.Popen[bytes]") -> tuple[int, str, str]:
    """(exit status, what else it printed, its errors)."""
    out, err = process.communicate(timeout=PATIENCE)
    return process.returncode, out.decode(), err.decode()


def alive(pid: int) -> bool:
    """Zombies are not: nobody may be there to reap them."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


# ---- kv


def test_a_value_is_printed_as_it_is(etcd: Etcd) -> None:
    assert run(etcd, "kv", "put", "a", "1").stdout.startswith("revision ")
    assert run(etcd, "kv", "get", "a").stdout_bytes == b"1\n"
    assert run(etcd, "kv", "put", "b", stdin=b"\x00\xff\n").exit_code == 0
    assert run(etcd, "kv", "get", "b").stdout_bytes == b"\x00\xff\n\n"
    assert run(etcd, "kv", "get", "--prefix", "").stdout_bytes == b"a\t1\nb\t\x00\xff\n\n"
    assert run(etcd, "kv", "get", "--prefix", "--keys-only", "").stdout_bytes == b"a\nb\n"
    assert run(etcd, "kv", "del", "a").stdout == "deleted 1\n"
    assert run(etcd, "kv", "del", "--prefix", "").stdout == "deleted 1\n"
    assert run(etcd, "kv", "del", "a").stdout == "deleted 0\n"


def test_json_has_one_object_per_line_and_base64_where_there_is_no_text(etcd: Etcd) -> None:
    revision = int(run(etcd, "kv", "put", "a", "ä").stdout.split()[1])
    run(etcd, "kv", "put", "b", stdin=b"\xff")
    first, second = map(json.loads, run(etcd, "kv", "get", "--json", "--prefix", "").stdout.splitlines())
    assert first == {
        "key": "a",
        "value": "ä",
        "create_revision": revision,
        "mod_revision": revision,
        "version": 1,
        "lease": 0,
    }
    assert second["value_base64"] == "/w=="


def test_an_old_revision_can_be_read(etcd: Etcd) -> None:
    revision = run(etcd, "kv", "put", "a", "1").stdout.split()[1]
    run(etcd, "kv", "put", "a", "2")
    assert run(etcd, "kv", "get", "a", "--revision", revision).stdout == "1\n"


@pytest.mark.parametrize(
    ("words", "code", "error"),
    [
        (["kv", "get", "a"], 1, "there is no key 'a'"),
        (["kv", "put", "a", "1", "--lease", "0x1"], 1, "requested lease not found"),
        (["kv", "put", "a", "1", "--lease", "one"], 2, "write it in decimal, or as 0x1f"),
        (["kv", "put", "a", "1", "--guarded"], 2, "run it by `balancer cluster lock NAME -- CMD`"),
        (["kv", "get", "a", "--revision", "999999"], 1, "future revision"),
        (["kv", "get", "a", "--endpoints", "127.0.0.1:x"], 2, "http://HOST:PORT"),
        (["members", "remove", "n7"], 1, "there is no member 'n7'; there are: n1 ("),
        (["members", "promote", "n1"], 1, "has a vote already"),
        (["lock", "l"], 2, "Missing argument '-- CMD...'"),
        (["lock", "l", "--grace", "9", "--", "true"], 2, "at least 20 s fit"),
        (["lock", "l", "--", "no-such-program"], 127, "no-such-program is no program"),
        (["lock", "l", "--", "/etc/passwd"], 126, "/etc/passwd cannot be run"),
    ],
)
def test_a_mistake_is_told_with_what_would_be_right(etcd: Etcd, words: list[str], code: int, error: str) -> None:
    result = run(etcd, *words)
    assert (result.exit_code, result.stdout) == (code, "")
    assert error in result.stderr
    assert keys(etcd) == ()


def test_endpoints_may_be_said_at_every_level_and_the_nearest_counts(etcd: Etcd) -> None:
    url = etcd.urls[0]
    nowhere = {"BALANCER_ENDPOINTS": "http://127.0.0.1:1"}
    for words in (
        ["--endpoints", url, "members"],
        ["members", "--endpoints", url],
        ["--endpoints", "x:y", "members", "--endpoints", url],
    ):
        result = run(etcd, *words, environ=nowhere)
        assert result.exit_code == 0, result.stderr
        assert "n1" in result.stdout
    assert run(etcd, "status", "--endpoints", url.removeprefix("http://"), environ=nowhere).exit_code == 0


def test_watch_prints_changes_until_it_is_interrupted(etcd: Etcd) -> None:
    revision = int(run(etcd, "kv", "put", "w/1", "a").stdout.split()[1])
    with started(etcd, "kv", "watch", "w/", "--prefix", "--from", str(revision)) as watching:
        assert line(watching) == "PUT\tw/1\ta"
        run(etcd, "kv", "put", "w/2", "b")
        run(etcd, "kv", "del", "w/1")
        assert [line(watching), line(watching)] == ["PUT\tw/2\tb", "DELETE\tw/1"]
        watching.send_signal(signal.SIGINT)
        assert ended(watching) == (0, "", "")
    with started(etcd, "kv", "watch", "w/2", "--json", "--from", str(revision)) as watching:
        found = json.loads(line(watching))
        assert (found["event"], found["key"], found["value"]) == ("PUT", "w/2", "b")


# ---- what the cluster says, and does not


def test_a_change_without_an_answer_and_a_cluster_without_a_leader_have_their_own_status(etcd: Etcd) -> None:
    async def scenario() -> None:
        async with FakeGateway() as gateway:
            url = gateway.url
            gateway.on("/v3/kv/put", CUT)
            result = await asyncio.to_thread(run, etcd, "kv", "put", "a", "1", "--endpoints", url)
            assert result.exit_code == 3
            assert "Read before you repeat it" in result.stderr
            for words in (["members", "add", "http://a:1"], ["members", "transfer", "n2"]):
                gateway.on("/v3/cluster/member/list", ok(members=[{"ID": "2", "name": "n2"}]))
                result = await asyncio.to_thread(run, etcd, *words, "--endpoints", url)
                assert result.exit_code == 1
                assert "the server does not support this call" in result.stderr
            gateway.on("/v3/maintenance/status", ok(header={"member_id": "2"}, version="3.5.0"))
            gateway.on("/v3/kv/range", refused(400, 3, "etcdserver: mvcc: database space exceeded"))
            result = await asyncio.to_thread(run, etcd, "status", "--endpoints", url)
            assert result.exit_code == 1
            assert "no leader" in result.stdout
            assert "the cluster cannot write now" in result.stdout

    asyncio.run(scenario())


def test_status_shows_every_member_that_is_named(etcd: Etcd) -> None:
    result = run(etcd, "status")
    assert result.exit_code == 0, result.stderr
    row = result.stdout.splitlines()[1].split()
    assert (row[0], row[2:4]) == (etcd.urls[0], ["3.4.23" if row[2] == "3.4.23" else row[2], "leader"])
    assert result.stdout.splitlines()[-1] == "the cluster can read and write"
    both = run(etcd, "status", "--json", "--endpoints", f"{etcd.urls[0]},http://127.0.0.1:1")
    assert both.exit_code == 1
    first, second = map(json.loads, both.stdout.splitlines())
    assert first["role"] == "leader"
    assert "Connection refused" in second["error"]
    assert run(etcd, "status", "--endpoints", "http://127.0.0.1:1").exit_code == 2


def test_a_learner_is_added_refused_a_vote_before_it_runs_and_removed(etcd: Etcd) -> None:
    added = run(etcd, "members", "add", "http://127.0.0.1:1")
    assert added.exit_code == 0, added.stderr
    number = added.stdout.split()[1]
    assert f"balancer cluster members promote {number}" in added.stdout
    listed = [json.loads(one) for one in run(etcd, "members", "--json").stdout.splitlines()]
    assert {one["role"] for one in listed} == {"voter", "learner"}
    promoted = run(etcd, "members", "promote", number)
    assert promoted.exit_code == 1
    assert "learner" in promoted.stderr
    assert run(etcd, "members", "transfer", number).exit_code == 1
    assert run(etcd, "members", "transfer", "n1").exit_code == 0
    removed = run(etcd, "members", "remove", number)
    assert (removed.exit_code, removed.stdout) == (0, f"member {number} was removed; 1 left\n")


# ---- lock and elect


def test_a_command_runs_with_its_token_and_its_exit_status_is_ours(etcd: Etcd) -> None:
    script = 'echo "$BALANCER_FENCING_TOKEN $BALANCER_LOCK_KEY"; cat; exit 7'
    with started(etcd, "lock", "l", "--", "sh", "-c", script) as holding:
        token, key = line(holding).split()
        (found,) = keys(etcd, "l/")
        assert (int(token), key) == (found.create_revision, found.key.decode())
        out, err = holding.communicate(b"its input", timeout=PATIENCE)
        assert (holding.returncode, out, err) == (7, b"its input", b"")
    assert keys(etcd) == ()


def test_the_leader_is_known_by_its_value_while_the_command_runs(etcd: Etcd) -> None:
    with started(etcd, "elect", "e", "--value", "here", "--", "sh", "-c", "echo on; cat") as leading:
        assert line(leading) == "on"
        assert [kv.value for kv in keys(etcd, "e/")] == [b"here"]
        assert ended(leading)[0] == 0
    assert keys(etcd) == ()


def test_a_lock_that_is_not_got_in_time_has_its_own_status(etcd: Etcd) -> None:
    with started(etcd, "lock", "l", "--", "sh", "-c", "echo on; cat") as holding:
        line(holding)
        result = run(etcd, "lock", "l", "--timeout", "0.1", "--", "echo", "mine")
        assert (result.exit_code, result.stdout) == (124, "")
        assert "l was not got within 0.1 s" in result.stderr
        assert len(keys(etcd)) == 1


def test_a_command_that_is_ended_by_a_signal_shows_it_as_shells_do(etcd: Etcd) -> None:
    assert run(etcd, "lock", "l", "--", "sh", "-c", "kill -9 $$").exit_code == 128 + 9


def test_signals_are_passed_on(etcd: Etcd) -> None:
    script = "trap 'echo usr1' USR1; trap 'echo term; exit 5' TERM; echo on; while :; do sleep 0.01; done"
    with started(etcd, "lock", "l", "--", "sh", "-c", script) as holding:
        assert line(holding) == "on"
        holding.send_signal(signal.SIGUSR1)
        assert line(holding) == "usr1"
        holding.send_signal(signal.SIGTERM)
        assert line(holding) == "term"
        assert ended(holding)[0] == 5
    assert keys(etcd) == ()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_who_is_interrupted_while_waiting_leaves_the_queue(etcd: Etcd, number: signal.Signals) -> None:
    with started(etcd, "lock", "l", "--", "sh", "-c", "echo on; cat") as holding:
        line(holding)
        with started(etcd, "lock", "l", "--", "echo", "mine") as waiting:
            until(lambda: len(keys(etcd)) == 2)
            waiting.send_signal(number)
            assert ended(waiting) == (128 + number, "", "")
        assert len(keys(etcd)) == 1


_STUBBORN = """
trap '' TERM
sh -c 'trap "" TERM; echo $$; while :; do sleep 0.01; done' &
echo $$
while :; do sleep 0.01; done
"""


def test_a_command_whose_lock_is_lost_is_stopped_with_all_that_it_started(etcd: Etcd) -> None:
    with started(etcd, "lock", "l", "--grace", "0.2", "--", "sh", "-c", _STUBBORN) as holding:
        pids = [int(line(holding)), int(line(holding))]
        delete(etcd, "l/")
        code, _, err = ended(holding)
        assert code == 123
        assert "its key was deleted" in err
        assert "the command was stopped" in err
        assert not any(map(alive, pids))


def test_a_command_that_ends_when_told_to_is_not_killed(etcd: Etcd) -> None:
    script = "trap 'echo cleaning up; exit 0' TERM; echo on; while :; do sleep 0.01; done"
    with started(etcd, "lock", "l", "--ttl", "60", "--grace", "20", "--", "sh", "-c", script) as holding:
        assert line(holding) == "on"
        delete(etcd, "l/")
        assert line(holding) == "cleaning up"
        assert ended(holding)[0] == 123


def test_a_command_that_is_cut_off_is_dead_before_somebody_else_has_the_lock(etcd: Etcd) -> None:
    async def scenario() -> None:
        cable = await Cable.to(etcd.urls[0].removeprefix("http://"))
        words = ["lock", "l", "--ttl", "2", "--grace", "0.3", "--endpoints", cable.address, "--", "sh", "-c", _STUBBORN]
        with started(etcd, *words) as holding:
            pids = [int(await asyncio.to_thread(line, holding)) for _ in range(2)]
            cable.hold()
            async with Coordination(etcd.urls) as client, client.lock("l", ttl=5):
                assert not any(map(alive, pids))
            assert (await asyncio.to_thread(ended, holding))[0] == 123
        await cable.close()

    asyncio.run(scenario())


def test_a_command_does_not_outlive_a_killed_holder(etcd: Etcd) -> None:
    with started(
        etcd, "lock", "l", "--ttl", "2", "--grace", "0.2", "--", "sh", "-c", "echo $$; exec sleep 1000"
    ) as holding:
        pid = int(line(holding))
        assert alive(pid)
        holding.kill()
        until(lambda: not alive(pid))


def test_a_guarded_change_is_done_under_the_lock_only(etcd: Etcd) -> None:
    balancer = f"{sys.executable} -m balancer cluster kv"
    script = f"{balancer} put --guarded a 1; echo $BALANCER_FENCING_TOKEN $BALANCER_LOCK_KEY;"
    script += f"{balancer} del --guarded --prefix a"
    with started(etcd, "lock", "l", "--", "sh", "-c", script) as holding:
        assert line(holding).startswith("revision ")
        token, key = line(holding).split()
        assert ended(holding) == (0, "deleted 1\n", "")
    late = {"BALANCER_FENCING_TOKEN": token, "BALANCER_LOCK_KEY": key}
    result = run(etcd, "kv", "put", "--guarded", "a", "2", environ=late)
    assert result.exit_code == 4
    assert "is not held any more: nothing was changed" in result.stderr
    assert keys(etcd) == ()


def test_at_a_terminal_the_command_reads_and_is_interrupted_as_if_nobody_were_between(etcd: Etcd) -> None:
    spawn = "import os, pty, sys; sys.exit(os.waitstatus_to_exitcode(pty.spawn(sys.argv[1:])))"
    words = [
        "cluster",
        "lock",
        "l",
        "--",
        "sh",
        "-c",
        "trap 'exit 9' INT; read x; echo got $x; while :; do sleep 0.01; done",
    ]
    process = subprocess.Popen(
        [sys.executable, "-c", spawn, sys.executable, "-m", "balancer", *words],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        env={**os.environ, "BALANCER_ENDPOINTS": etcd.urls[0]},
    )
    try:
        assert process.stdin is not None
        until(lambda: keys(etcd))
        process.stdin.write(b"hello\n")
        process.stdin.flush()
        while "got hello" not in line(process):
            pass
        process.stdin.write(b"\x1a\x03")  # Ctrl-Z, Ctrl-C
        process.stdin.flush()
        assert process.wait(PATIENCE) == 9
    finally:
        process.kill()
        process.communicate()


def test_the_documents_python_example_runs(etcd: Etcd, project: Path) -> None:
    text = (project / "docs" / "coordination-client.md").read_text(encoding="utf-8")
    example = text.partition("```python\n")[2].partition("```")[0]
    assert '["http://10.0.0.1:2379", "http://10.0.0.2:2379"]' in example
    code = example.replace('["http://10.0.0.1:2379", "http://10.0.0.2:2379"]', repr(etcd.urls))
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=PATIENCE, check=True)
    assert result.stdout.startswith("token ")
    assert [(kv.key, kv.value) for kv in keys(etcd)] == [(b"deployed", b"v7")]
