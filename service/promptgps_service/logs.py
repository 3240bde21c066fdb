"""Logs on standard error: ours and those of every library in one form, a line each.

Everything goes through the standard library's `logging`: structlog's lines, uvicorn's and
alembic's, warnings, and the tracebacks of whatever ends a thread or the process.
"""

from __future__ import annotations

import json
import logging
import sys
import threading
from types import TracebackType
from typing import TextIO

import structlog

from promptgps_service.store.clock import utc_now

_form = "console"

# Libraries whose every step is a line at the level `info`; what they warn of is shown.
_TALKATIVE = ("alembic", "httpx", "httpcore", "asyncio", "uvicorn.error")


def configure_logs(form: str, level: str) -> None:
    """Log to standard error, with the request's id on every line that belongs to one.

    Args:
        form: `json`, one object a line, or `console`, for people.
        level: least severe line that is written.
    """
    global _form

    _form = form
    common: list[structlog.typing.Processor] = [
        structlog.contextvars.merge_contextvars,
        structlog.stdlib.add_log_level,
        structlog.stdlib.add_logger_name,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
    ]
    handler = _StandardError()
    handler.setFormatter(_formatter(form, common))
    root = logging.getLogger()
    for old in [one for one in root.handlers if isinstance(one, _StandardError)]:
        root.removeHandler(old)
    root.addHandler(handler)

    least = logging.getLevelNamesMapping()[level.upper()]
    root.setLevel(least)
    for name in _TALKATIVE:
        logging.getLogger(name).setLevel(
            least if least < logging.INFO else max(least, logging.WARNING)
        )

    structlog.configure(
        processors=[*common, structlog.stdlib.ProcessorFormatter.wrap_for_formatter],
        wrapper_class=structlog.make_filtering_bound_logger(least),
        logger_factory=structlog.stdlib.LoggerFactory(),
        cache_logger_on_first_use=True,
    )
    _log_what_nobody_catches()


def announce(text: str) -> None:
    """Tell whoever started the process what it has come to, on standard output.

    Where logs are JSON this is an object, too: containers put both outputs into one stream.
    """
    print(_line(text, "info"), flush=True)  # noqa: T201


def announce_failure(text: str) -> None:
    """Tell whoever started the process why it ends, on standard error."""
    print(_line(text, "critical"), file=sys.stderr, flush=True)  # noqa: T201


def _line(text: str, level: str) -> str:
    if _form != "json":
        return text
    now = utc_now()
    return json.dumps({"event": text, "level": level, "timestamp": now}, ensure_ascii=False)


def _formatter(
    form: str, common: list[structlog.typing.Processor]
) -> structlog.stdlib.ProcessorFormatter:
    remove = structlog.stdlib.ProcessorFormatter.remove_processors_meta
    processors: list[structlog.typing.Processor] = [remove]
    if form == "json":
        processors += [structlog.processors.format_exc_info, structlog.processors.JSONRenderer()]
    else:
        processors.append(
            structlog.dev.ConsoleRenderer(
                colors=sys.stderr.isatty(),
                exception_formatter=structlog.dev.plain_traceback,
            )
        )

    return structlog.stdlib.ProcessorFormatter(processors=processors, foreign_pre_chain=common)


class _StandardError(logging.StreamHandler[TextIO]):
    """Standard error as it is when a line is written."""

    def __init__(self) -> None:
        logging.Handler.__init__(self)

    @property
    def stream(self) -> TextIO:  # type: ignore[override]
        return sys.stderr

    def handleError(self, record: logging.LogRecord) -> None:  # noqa: N802
        """Lose the line and not the request that it tells of.

        Standard error may be a file on a full disk, or a pipe that nobody reads any more. A line
        that cannot be made is a fault of ours, and is told in the form of all lines.
        """
        error = sys.exc_info()[1]
        if isinstance(error, OSError) or self.stream.closed:
            return

        told = {"event": "a log line could not be made", "level": "error", "logger": record.name}
        line = json.dumps({**told, "line": repr(record.msg)[:1000], "exception": repr(error)})
        try:
            self.stream.write(line + "\n")
        except OSError:
            return


def _log_what_nobody_catches() -> None:
    """Write warnings and the errors that end a thread or the process as lines of the log, too."""
    logging.captureWarnings(True)
    log = structlog.get_logger("promptgps_service")

    def of_process(
        kind: type[BaseException], error: BaseException, trace: TracebackType | None
    ) -> None:
        if issubclass(kind, KeyboardInterrupt):
            log.warning("interrupted")
        else:
            log.critical("unexpected error", exc_info=(kind, error, trace))

    def of_thread(arguments: threading.ExceptHookArgs) -> None:
        if arguments.exc_type is SystemExit or arguments.exc_value is None:
            return
        name = arguments.thread.name if arguments.thread is not None else None
        trace = (arguments.exc_type, arguments.exc_value, arguments.exc_traceback)
        log.critical("a thread has died", thread=name, exc_info=trace)

    def of_object(unraisable: sys.UnraisableHookArgs) -> None:
        error = unraisable.exc_value
        trace = (
            (unraisable.exc_type, error, unraisable.exc_traceback) if error is not None else None
        )
        log.error(
            unraisable.err_msg or "error ignored", object=repr(unraisable.object), exc_info=trace
        )

    sys.excepthook = of_process
    threading.excepthook = of_thread
    sys.unraisablehook = of_object
