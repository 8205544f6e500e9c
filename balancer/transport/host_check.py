"""Who may be asked by a browser: against DNS rebinding and against requests that a foreign web page makes.

A web page can make a browser send requests to a loopback address: under a name of the page's own that resolves to it
(then the Host is that name), or directly (then the Origin is the page's). Programs send an IP address or `localhost`
as Host and no Origin.
"""

import ipaddress


class HostCheck:
    """Accepts IP addresses, `localhost` and the names in `hosts`, all without port."""

    def __init__(self, hosts: frozenset[str] = frozenset()) -> None:
        self._hosts = frozenset(host.lower().rstrip(".") for host in hosts) | {"localhost"}
        self._seen: set[str] = set()  # accepted as written; bounded, because whoever asks writes it

    def accepts(self, host: str) -> bool:
        """Whether `host`, the value of a Host field, is one of ours."""
        if host in self._seen:
            return True
        name = host.lower()
        if name.startswith("["):
            name, closed, _ = name[1:].partition("]")
            if not closed:
                return False
        elif name.count(":") == 1:
            name = name.partition(":")[0]
        if name.rstrip(".") not in self._hosts:
            try:
                ipaddress.ip_address(name)
            except ValueError:
                return False
        if len(self._seen) < 64:
            self._seen.add(host)
        return True

    @staticmethod
    def same_origin(origin: str, host: str) -> bool:
        """Whether `origin`, the value of an Origin field, is a page that came from `host`; "null" is not."""
        scheme, _, rest = origin.partition("://")
        return scheme in ("http", "https") and rest.lower() == host.lower()
