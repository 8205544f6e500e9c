"""What the process may do: its limit of descriptors, and giving up root."""

import grp
import os
import pwd
import resource
from dataclasses import dataclass

from balancer.errors import BalancerError

# Half a million connections. Some systems allow a billion descriptors, which no program should try to keep.
DESCRIPTORS_MAX = 1 << 20
DESCRIPTORS_RESERVED = 256  # listening sockets, logs, control channel, connections that are being refused
BUDGET_MIN = 64


class PrivilegeError(BalancerError):
    """`user` or `group` of the configuration cannot be used."""


@dataclass(frozen=True, slots=True)
class Account:
    """Who to become. `name` is for the supplementary groups."""

    name: str
    uid: int
    gid: int


def raise_descriptor_limit() -> int:
    """Raise the soft limit of open descriptors to the hard one; children inherit it. Returns the limit."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = DESCRIPTORS_MAX if hard == resource.RLIM_INFINITY else min(hard, DESCRIPTORS_MAX)
    if soft != resource.RLIM_INFINITY and soft >= wanted:
        return soft
    resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
    return wanted


def connection_budget() -> int:
    """Client connections that one worker has descriptors for: each may need one to a backend as well."""
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    limit = DESCRIPTORS_MAX if soft == resource.RLIM_INFINITY else soft
    return max(BUDGET_MIN, (limit - DESCRIPTORS_RESERVED) // 2)


def find_account(user: str | None, group: str | None) -> Account | None:
    """The account that the configuration names; None when it names none. Raises PrivilegeError for unknown ones."""
    if user is None and group is None:
        return None
    name = user if user is not None else str(os.geteuid())
    try:
        entry = pwd.getpwuid(int(name)) if name.isdigit() else pwd.getpwnam(name)
    except KeyError:
        raise PrivilegeError(f"user: there is no user {name!r} on this machine") from None
    if group is None:
        return Account(entry.pw_name, entry.pw_uid, entry.pw_gid)
    try:
        found = grp.getgrgid(int(group)) if group.isdigit() else grp.getgrnam(group)
    except KeyError:
        raise PrivilegeError(f"group: there is no group {group!r} on this machine") from None
    return Account(entry.pw_name, entry.pw_uid, found.gr_gid)


def become(account: Account) -> None:
    """Give up root for good. Raises PrivilegeError when this process may not."""
    try:
        os.initgroups(account.name, account.gid)
        os.setresgid(account.gid, account.gid, account.gid)
        os.setresuid(account.uid, account.uid, account.uid)
    except OSError as error:
        raise PrivilegeError(f"cannot become user {account.name}: {error.strerror}") from error
