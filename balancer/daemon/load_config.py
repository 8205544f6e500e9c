"""Reads and validates the configuration for the supervisor: `python -m balancer.daemon.load_config PATH`.

For every line on standard input it reads the file at PATH, checks it as `balancer check` does, and writes the result
to standard output: its length in 4 bytes, then a `daemon.loader.Answer` as msgpack. It ends when its input ends.
"""

import os
import signal
import sys
from typing import BinaryIO

import msgspec

from balancer.daemon.config_file import UnusableFileError, read_config
from balancer.daemon.loader import LENGTH, Answer, BadConfig, GoodConfig
from balancer.daemon.named_files import check_named_files
from balancer.errors import ConfigError


def read(path: str) -> Answer:
    """The configuration at `path`, or everything that is wrong with it."""
    try:
        loaded = read_config(path, check_named_files)
    except ConfigError as error:
        return BadConfig(tuple(str(problem) for problem in error.problems))
    except UnusableFileError as error:
        return BadConfig((str(error),))
    return GoodConfig(loaded.config, tuple(str(problem) for problem in loaded.warnings))


def serve(path: str, questions: BinaryIO, answers: BinaryIO) -> None:
    """An answer for every line of `questions`, until they end."""
    for _ in questions:
        message = msgspec.msgpack.encode(read(path))
        answers.write(len(message).to_bytes(LENGTH, "little") + message)
        answers.flush()


def main(path: str) -> None:
    """Serve the supervisor, which decides when this process ends: signals of its terminal are not for us."""
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1):
        signal.signal(number, signal.SIG_IGN)
    answers = os.fdopen(os.dup(sys.stdout.fileno()), "wb")
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())  # whatever a library prints is no answer
    serve(path, sys.stdin.buffer, answers)


if __name__ == "__main__":
    main(sys.argv[1])
