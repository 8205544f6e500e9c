"""Both sides of the comparison, for clients that block: our gateway, and a real etcd that proves the test itself."""

from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from tests.support.coordination_etcd import Etcd
from tests.support.etcd_thread import ThreadedEtcd
from tests.support.etcd_versions import VERSIONS, require_etcd


class Etcds:
    """Real etcds by version, each started when it is asked for."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._stack = ExitStack()
        self._urls: dict[str, str] = {}

    def __getitem__(self, version: str) -> str:
        """The URL of an etcd of that version."""
        if version not in self._urls:
            place = self._folder / version
            place.mkdir()
            etcd = self._stack.enter_context(Etcd(place, program=require_etcd(version)))
            self._urls[version] = etcd.urls[0]
        return self._urls[version]

    def close(self) -> None:
        """Stop all of them."""
        self._stack.close()


@pytest.fixture(scope="session")
def etcds(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Etcds]:
    """Shared by all tests, so each uses keys of its own."""
    etcds = Etcds(tmp_path_factory.mktemp("etcds"))
    yield etcds
    etcds.close()


@pytest.fixture(params=VERSIONS)
def real_etcd(request: pytest.FixtureRequest, etcds: Etcds) -> str:
    """The URL of a real etcd, one of each version."""
    return etcds[request.param]


@pytest.fixture
def our_etcd() -> Iterator[str]:
    """The URL of our gateway, with an empty store."""
    with ThreadedEtcd() as etcd:
        yield etcd.url
