"""Events of the daemon on standard error: JSON lines for machines, colours for people at a terminal.

Every process calls `configure` once. A call blocks when standard error does, so nothing logs per request.
"""

import logging
from typing import Literal, TextIO

import structlog
from structlog.typing import EventDict, Processor, WrappedLogger

from balancer.telemetry import events

Format = Literal["json", "console", "auto"]
LEVELS = {"debug": 10, "info": 20, "warning": 30, "error": 40}


class _Threshold:
    """Drops events below the level, which may change while loggers are in use."""

    def __init__(self, level: str) -> None:
        self.set(level)

    def set(self, level: str) -> None:
        if level not in LEVELS:
            raise ValueError(f"unknown log level {level!r}; one of {', '.join(LEVELS)}")
        self.number = LEVELS[level]

    def __call__(self, logger: WrappedLogger, method: str, event: EventDict) -> EventDict:
        if LEVELS.get(method, 40) < self.number:
            raise structlog.DropEvent
        return event


class _Constants:
    """Adds what is the same for every event of a process, and puts first what people look at first."""

    def __init__(self, fields: dict[str, str | int]) -> None:
        self._fields = fields

    def __call__(self, logger: WrappedLogger, method: str, event: EventDict) -> EventDict:
        first = {key: event.pop(key) for key in ("time", "level", "event")}
        return {**first, **self._fields, **event}


class _StreamWriter:
    """Writes one line per call. A stream that fails costs the line, never the process: it is counted."""

    lost = 0

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream

    def msg(self, message: str) -> None:
        try:
            self._stream.write(message + "\n")
            self._stream.flush()
        except (OSError, ValueError):  # closed or full: there is no other place to say so
            self.lost += 1

    debug = info = warning = error = critical = msg


class _LibraryHandler(logging.Handler):
    """Turns what libraries log (asyncio's "exception was never retrieved") into our events."""

    def emit(self, record: logging.LogRecord) -> None:
        level = "error" if record.levelno >= logging.ERROR else "warning"
        exc_info = record.exc_info if record.exc_info and record.exc_info[0] else None
        getattr(structlog.get_logger(), level)(
            events.LIBRARY_LOGGED, logger=record.name, message=record.getMessage(), exc_info=exc_info
        )


_threshold = _Threshold("info")


def configure(level: str, fmt: Format, stream: TextIO, **constants: str | int) -> None:
    """Log to `stream` from now on. `auto` = console when it is a terminal, else json.

    `constants` go into every event (`process="worker", worker=1`). Raises ValueError for an unknown level.
    """
    _threshold.set(level)
    terminal = stream.isatty()
    console = fmt == "console" or (fmt == "auto" and terminal)
    shared: list[Processor] = [
        _threshold,
        structlog.processors.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True, key="time"),
        _Constants(constants),
    ]
    rendering: list[Processor]
    if console:
        rendering = [
            structlog.dev.ConsoleRenderer(
                colors=terminal,
                timestamp_key="time",
                pad_event_to=28,
                sort_keys=False,
                exception_formatter=structlog.dev.plain_traceback,  # local variables may hold secrets
            )
        ]
    else:
        rendering = [structlog.processors.format_exc_info, structlog.processors.JSONRenderer(default=str)]
    structlog.configure(
        processors=[*shared, *rendering],
        wrapper_class=structlog.make_filtering_bound_logger(LEVELS["debug"]),  # _threshold decides, and may change
        logger_factory=lambda *_: _StreamWriter(stream),
        cache_logger_on_first_use=False,
    )
    logging.basicConfig(handlers=[_LibraryHandler()], level=logging.WARNING, force=True)


def set_level(level: str) -> None:
    """Change the level of this process. Raises ValueError for an unknown one."""
    _threshold.set(level)
