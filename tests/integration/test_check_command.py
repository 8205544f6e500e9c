"""`balancer check` and `balancer schema` as a user runs them."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.certificates import issued, openssl

ROOT = Path(__file__).parents[2]
EXAMPLES = sorted((ROOT / "config").glob("*.yaml"))
GOOD = (ROOT / "config" / "minimal.yaml").read_text()


def balancer(*arguments: str | Path, **environ: str) -> subprocess.CompletedProcess[str]:
    """One run of the command, without a limit on what it may print."""
    return subprocess.run(
        [sys.executable, "-m", "balancer", *map(str, arguments)],
        capture_output=True,
        text=True,
        timeout=60,
        env={**os.environ, **environ},
        cwd=ROOT,
        check=False,
    )


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A copy of the examples, with the certificates that tls.yaml asks for."""
    for file in EXAMPLES:
        shutil.copy(file, tmp_path)
    for name in ("site", "api"):
        pair = issued(f"{name}.example.com")
        shutil.copy(pair.cert_path, tmp_path / f"{name}.pem")
        shutil.copy(pair.key_path, tmp_path / f"{name}.key")
    return tmp_path


@pytest.mark.parametrize("example", [file.name for file in EXAMPLES])
def test_every_example_is_good(folder: Path, example: str) -> None:
    run = balancer("check", folder / example)
    assert (run.returncode, run.stdout, run.stderr) == (0, f"{folder / example}: good\n", "")


@pytest.mark.parametrize("member", ["n1", "n2", "n3"])
def test_every_member_of_the_example_of_three_is_good(member: str) -> None:
    file = ROOT / "config" / "cluster-3" / f"{member}.yaml"
    run = balancer("check", file)
    assert (run.returncode, run.stdout, run.stderr) == (0, f"{file}: good\n", "")


def test_the_readme_of_the_examples_names_each_of_them() -> None:
    readme = (ROOT / "config" / "README.md").read_text()
    for file in EXAMPLES:
        assert f"[{file.name}]({file.name})" in readme


def test_mistakes_are_printed_with_their_places_and_the_exit_status_says_so() -> None:
    file = "tests/unit/config/twelve_mistakes.yaml"
    run = balancer("check", file)
    assert run.returncode == 1
    *lines, last = run.stdout.splitlines()
    assert len(lines) == 12
    assert lines[0] == f"{file}:2:1: worker: unknown key `worker`; did you mean workers?"
    assert last == f"{file}: 12 errors"


def test_warnings_are_printed_and_the_file_is_good(tmp_path: Path) -> None:
    file = tmp_path / "f.yaml"
    file.write_text(GOOD + '  spare: {backends: ["127.0.0.1:9003"]}\n')
    run = balancer("check", file)
    assert run.returncode == 0
    warning, last = run.stdout.splitlines()
    assert ": pools.spare: warning: " in warning
    assert last == f"{file}: good, 1 warning"


def test_json_carries_the_same(tmp_path: Path) -> None:
    run = balancer("check", "--json", "tests/unit/config/twelve_mistakes.yaml")
    assert run.returncode == 1
    result = json.loads(run.stdout)
    assert result["good"] is False
    assert len(result["problems"]) == 12
    assert result["problems"][1] == {
        "file": "tests/unit/config/twelve_mistakes.yaml",
        "line": 3,
        "column": 14,
        "path": "log.level",
        "message": "`verbose` is not possible; possible here: debug, info, warning, error",
        "warning": False,
    }
    good = json.loads(balancer("check", "config/minimal.yaml", "--json").stdout)
    assert good == {"file": "config/minimal.yaml", "good": True, "problems": []}


def unusable(path: Path, right: str) -> None:
    run = balancer("check", path)
    assert (run.returncode, run.stdout) == (2, "")
    assert right in run.stderr
    assert "Traceback" not in run.stderr


def test_a_file_that_cannot_be_read_is_unusable(tmp_path: Path) -> None:
    unusable(tmp_path / "none.yaml", "no such file")
    unusable(tmp_path, "is a directory")
    large = tmp_path / "large.yaml"
    large.write_bytes(b"a: b\n" * 2_100_000)
    unusable(large, "larger than 4 MiB")
    unusable(large / "below", "cannot be read")


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read every file")
def test_a_file_of_someone_else_is_unusable(tmp_path: Path) -> None:
    file = tmp_path / "f.yaml"
    file.write_text(GOOD)
    file.chmod(0)
    unusable(file, "may not be read")


def test_an_unusable_file_is_said_in_json_too(tmp_path: Path) -> None:
    run = balancer("check", "--json", tmp_path)
    assert run.returncode == 2
    result = json.loads(run.stdout)
    assert (result["good"], result["problems"]) == (False, [])
    assert "is a directory" in result["unusable"]


@pytest.mark.parametrize(
    ("data", "right"),
    [(b"", ":1:1: (file): the file is empty"), (b"a: \xff", ":1:4: (file): the byte 0xff is not UTF-8")],
)
def test_a_file_that_says_nothing_is_bad(tmp_path: Path, data: bytes, right: str) -> None:
    file = tmp_path / "f.yaml"
    file.write_bytes(data)
    run = balancer("check", file)
    assert run.returncode == 1
    assert right in run.stdout


def test_values_come_from_the_environment(tmp_path: Path) -> None:
    file = tmp_path / "f.yaml"
    file.write_text(GOOD + "workers: ${BALANCER_TEST_WORKERS}\n")
    assert balancer("check", file, BALANCER_TEST_WORKERS="2").returncode == 0
    assert "is not set" in balancer("check", file).stdout


TLS = """
listeners:
  web:
    bind: 127.0.0.1:8080
    tls:
      certificates:
        - cert: CERT
          key: KEY
      client_ca: CA
routes: [{name: all, pool: app}]
pools:
  app:
    tls:
      ca: CA
      cert: CERT
      key: KEY
    backends: ["127.0.0.1:9001"]
admin: {bind: "0.0.0.0:9901", token_file: TOKEN}
"""


def tls_lines(folder: Path, **files: str) -> list[str]:
    """What is found, without the file's name, when the named files are those in `folder`."""
    names = {"CERT": "site.pem", "KEY": "site.key", "CA": "site.pem", "TOKEN": "token", **files}
    text = TLS
    for word, name in names.items():
        text = text.replace(word, name)
    file = folder / "f.yaml"
    file.write_text(text)
    return [line.removeprefix(f"{file}:") for line in balancer("check", file).stdout.splitlines()]


def test_files_that_are_named_are_looked_at(folder: Path) -> None:
    (folder / "token").write_text("secret\n")
    assert tls_lines(folder) == [" good"]


def test_files_that_are_missing_are_reported_at_their_names(folder: Path) -> None:
    lines = tls_lines(folder, CERT="no.pem", KEY="no.key", CA="no-ca.pem", TOKEN="no-token")
    places = [line.split(": ")[0] + " " + line.split(": ")[1] for line in lines[:-1]]
    assert places == [
        "7:17 listeners.web.tls.certificates[0].cert",
        "8:16 listeners.web.tls.certificates[0].key",
        "9:18 listeners.web.tls.client_ca",
        "14:11 pools.app.tls.ca",
        "15:13 pools.app.tls.cert",
        "16:12 pools.app.tls.key",
        "18:43 admin.token_file",
    ]
    assert all("does not exist" in line for line in lines[:-1])


def test_files_that_are_missing_are_reported_beside_other_mistakes(tmp_path: Path) -> None:
    file = tmp_path / "x.yaml"
    file.write_text(
        "listeners: {web: {bind: 127.0.0.1:0, wrong: 1}}\nroutes: [{name: all, pool: gone}]\n"
        "pools: {app: {backends: ['127.0.0.1:1'], tls: {ca: no.pem}}}\n"
    )
    run = balancer("check", file)
    paths = [line.split(": ")[1] for line in run.stdout.splitlines()[:-1]]
    assert (run.returncode, paths) == (1, ["listeners.web.wrong", "routes[0].pool", "pools.app.tls.ca"])


@pytest.mark.parametrize(
    ("access", "why"), [("none/access.log", "there is no folder {}/none; "), (".", "{} is a folder; ")]
)
def test_a_log_file_that_cannot_be_there_is_reported(folder: Path, access: str, why: str) -> None:
    (folder / "a.yaml").write_text(f"log: {{access: ./{access}}}\n{GOOD}")
    run = balancer("check", folder / "a.yaml")
    assert run.returncode == 1
    assert run.stdout.startswith(f"{folder}/a.yaml:1:15: log.access: {why.format(folder)}")


def test_files_that_do_not_fit_are_reported(folder: Path) -> None:
    (folder / "token").write_text("  \n")
    (folder / "junk.pem").write_text("junk\n")
    other = tls_lines(folder, KEY="api.key", TOKEN="token")
    assert "is not the key of the certificate" in other[0]
    assert "is empty; write the token into it" in "".join(other)
    junk = tls_lines(folder, CERT="junk.pem", CA="junk.pem")
    assert "8:" not in junk[0].partition(" ")[0]
    assert any("not a PEM certificate" in line for line in junk)
    assert any("holds no PEM certificate" in line for line in junk)
    assert any("cannot be read" in line for line in tls_lines(folder, CA="."))


def test_an_encrypted_key_is_said_to_be_one(folder: Path) -> None:
    (folder / "token").write_text("secret\n")
    openssl("pkey", "-aes128", "-passout", "pass:x", "-in", folder / "site.key", "-out", folder / "locked.key")
    assert "is encrypted" in tls_lines(folder, KEY="locked.key")[0]


def test_the_schema_command_prints_a_json_schema() -> None:
    run = balancer("schema")
    assert run.returncode == 0
    made = json.loads(run.stdout)
    assert "listeners" in made["properties"]
    assert "description" in made["properties"]["workers"]
