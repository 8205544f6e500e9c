"""Reads the configuration file: the one place where its path, the environment and the number of cores come in."""

import os
from collections.abc import Callable

from balancer.config.load import Loaded, load, nothing_further
from balancer.config.yaml_nodes import BYTES_MAX
from balancer.errors import BalancerError, Problem


class UnusableFileError(BalancerError):
    """The configuration file cannot be read at all, so nothing can be said about what is in it."""


def read_config(path: str, further: Callable[[Loaded], list[Problem]] = nothing_further) -> Loaded:
    """The configuration in the file at `path`; relative paths in it start from its folder. `further` as for `load`.

    Raises UnusableFileError when the file cannot be read and ConfigError when what it says is wrong.
    """
    try:
        with open(path, "rb") as file:
            text = file.read(BYTES_MAX + 1)
    except FileNotFoundError as error:
        raise UnusableFileError(f"{path}: no such file; give the path of a configuration file") from error
    except IsADirectoryError as error:
        raise UnusableFileError(f"{path}: is a directory; give the path of a file in it") from error
    except PermissionError as error:
        raise UnusableFileError(f"{path}: may not be read by this user; change its owner or mode") from error
    except (OSError, ValueError) as error:
        raise UnusableFileError(f"{path}: cannot be read: {error}") from error
    if len(text) > BYTES_MAX:
        raise UnusableFileError(f"{path}: is larger than {BYTES_MAX // 1024**2} MiB, which no configuration is")
    base = os.path.dirname(os.path.abspath(path))
    return load(text, path, os.environ, cores=os.cpu_count() or 1, base=base, further=further)
