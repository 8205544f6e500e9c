"""TLS files: all that the configuration names, each once, and every one that fails is named."""

from pathlib import Path

import pytest

from balancer.config.model import Bind, Certificate, Config, Listener, ListenerTls, Pool, PoolTls
from balancer.daemon.files import FilesError, read_files


def config_of(folder: Path) -> Config:
    def path(name: str) -> str:
        return str(folder / name)

    certificates = (
        Certificate(cert=path("a.pem"), key=path("a.key")),
        Certificate(cert=path("b.pem"), key=path("a.key")),
    )
    return Config(
        listeners=(
            Listener(
                name="x", bind=(Bind(port=1),), tls=ListenerTls(certificates=certificates, client_ca=path("ca.pem"))
            ),
            Listener(name="plain", bind=(Bind(port=2),)),
        ),
        routes=(),
        pools=(
            Pool(name="p", tls=PoolTls(ca=path("ca.pem"), cert=path("c.pem"), key=path("c.key"))),
            Pool(name="q", tls=PoolTls()),
            Pool(name="r"),
        ),
    )


def test_every_named_file_is_read(tmp_path: Path) -> None:
    names = ["a.pem", "a.key", "b.pem", "ca.pem", "c.pem", "c.key"]
    for name in names:
        (tmp_path / name).write_bytes(name.encode() + b"\0\xff")
    files = read_files(config_of(tmp_path))
    assert files == {str(tmp_path / name): name.encode() + b"\0\xff" for name in names}


def test_every_file_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    (tmp_path / "a.pem").write_text("x")
    (tmp_path / "ca.pem").mkdir()
    with pytest.raises(FilesError) as caught:
        read_files(config_of(tmp_path))
    lines = str(caught.value).splitlines()
    assert len(lines) == 5
    assert f"{tmp_path}/ca.pem: Is a directory" in lines
    assert f"{tmp_path}/a.key: No such file or directory" in lines
