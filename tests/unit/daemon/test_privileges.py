"""Limits and accounts."""

import os
import resource
import subprocess
import sys

import pytest

from balancer.daemon.privileges import (
    BUDGET_MIN,
    PrivilegeError,
    connection_budget,
    find_account,
    raise_descriptor_limit,
)

AS_ROOT = pytest.mark.skipif(os.geteuid() != 0, reason="only root can change its user")


def in_a_process(script: str) -> str:
    head = "import os, resource\nfrom balancer.daemon.privileges import *\n"
    return subprocess.run(
        [sys.executable, "-c", head + script], capture_output=True, text=True, check=True, timeout=30
    ).stdout.strip()


def test_the_soft_limit_is_raised_to_the_hard_one_and_the_budget_follows() -> None:
    script = (
        "resource.setrlimit(resource.RLIMIT_NOFILE, (300, 2256))\n"
        "print(connection_budget(), raise_descriptor_limit(), connection_budget())\n"
        "print(*resource.getrlimit(resource.RLIMIT_NOFILE))"
    )
    assert in_a_process(script) == f"{BUDGET_MIN} 2256 1000\n2256 2256"


def test_a_limit_that_is_high_enough_is_left_alone() -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    raised = raise_descriptor_limit()
    assert raised >= soft or soft == resource.RLIM_INFINITY
    assert resource.getrlimit(resource.RLIMIT_NOFILE)[1] == hard
    assert connection_budget() == max(BUDGET_MIN, (raised - 256) // 2)


def test_accounts_are_found_by_name_and_by_number() -> None:
    root = find_account("root", None)
    assert root is not None
    assert (root.name, root.uid, root.gid) == ("root", 0, 0)
    assert find_account("0", "0") == root
    assert find_account(None, None) is None


@pytest.mark.parametrize(
    ("user", "group", "why"),
    [("no-such-user", None, "user: there is no user 'no-such-user'"), ("root", "no-such-group", "group: there is no")],
)
def test_an_unknown_account_is_named(user: str, group: str | None, why: str) -> None:
    with pytest.raises(PrivilegeError, match=why):
        find_account(user, group)


@AS_ROOT
def test_root_is_given_up_for_good() -> None:
    script = (
        "become(find_account('nobody', None))\n"
        "print(os.getresuid(), os.getgroups())\n"
        "try:\n    os.setuid(0)\nexcept PermissionError:\n    print('gone')"
    )
    lines = in_a_process(script).splitlines()
    uid = find_account("nobody", None)
    assert uid is not None
    assert lines[0].startswith(f"({uid.uid}, {uid.uid}, {uid.uid})")
    assert " 0" not in lines[0].partition("[")[2]
    assert lines[1] == "gone"


@AS_ROOT
def test_who_is_not_root_cannot_become_another() -> None:
    script = (
        "become(find_account('nobody', None))\n"
        "try:\n    become(find_account('root', None))\nexcept PrivilegeError as error:\n    print(error)"
    )
    assert in_a_process(script) == "cannot become user root: Operation not permitted"
