"""Becoming the configured user, once everything is bound."""

import os
import sys
from collections.abc import Sequence

import structlog

from balancer.config.model import Config
from balancer.daemon import privileges
from balancer.daemon.bindings import Bindings
from balancer.daemon.privileges import Account, PrivilegeError
from balancer.daemon.runtime_dir import RuntimeDir
from balancer.telemetry import events

log = structlog.get_logger()


def change_user(config: Config, account: Account | None, runtime: RuntimeDir, bound: Sequence[Bindings]) -> None:
    """Become the configured user, or say why not. Raises PrivilegeError."""
    if os.geteuid() != 0:
        if account is not None and account.uid != os.geteuid():
            log.warning(events.USER_IGNORED, user=account.name)
        return
    if account is None:
        log.warning(events.RUNS_AS_ROOT)
        return
    runtime.give_to(account.uid, account.gid)
    for bindings in bound:
        bindings.give_files_to(account.uid, account.gid)
    privileges.become(account)
    if not os.access(sys.executable, os.X_OK):
        raise PrivilegeError(f"user {account.name} may not execute {sys.executable}; install it where that user can go")
    if not os.access(runtime.path, os.W_OK | os.X_OK):
        raise PrivilegeError(f"user {account.name} may not write to runtime_dir {runtime.path}; choose another one")
