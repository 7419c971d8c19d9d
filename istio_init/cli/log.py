"""The drop-in's log, as far as Istio's logging flags go. ``logging`` costs a start more than the log is worth."""

from __future__ import annotations

import sys
import time

from istio_init.visible import visible

LEVELS = ("none", "fatal", "error", "warn", "info", "debug")


class LogTargetError(Exception):
    """The log's file cannot be written; the argument says why, and what was to be logged."""


class Log:
    """Writes lines of Istio's form: time, level, message; or JSON objects."""

    def __init__(self, level: str = "info", *, as_json: bool = False, target: str = "stderr") -> None:
        self.level = LEVELS.index(level)
        self.as_json = as_json
        self.target = target

    def write(self, level: str, message: str) -> None:
        """Write a message, one line for each of its own."""
        if LEVELS.index(level) > self.level:
            return
        now = time.time()
        stamp = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(now)) + f".{int(now % 1 * 1e6):06d}Z"
        if self.as_json:
            import json

            text = json.dumps({"level": level, "time": stamp, "msg": message}) + "\n"
        else:
            text = "".join(f"{stamp}\t{level}\t{visible(line)}\n" for line in message.split("\n"))
        if self.target in ("stderr", "stdout"):
            stream = sys.stderr if self.target == "stderr" else sys.stdout
            stream.write(text)
            stream.flush()
        else:
            try:
                with open(self.target, "a", encoding="utf-8") as file:
                    file.write(text)
            except OSError as error:
                raise LogTargetError(f"--log_target {self.target}: {error.strerror}\n{text}") from error

    def error(self, message: str) -> None:
        """What made the run fail."""
        self.write("error", message)

    def warn(self, message: str) -> None:
        """What is probably not meant."""
        self.write("warn", message)

    def info(self, message: str) -> None:
        """What was done."""
        self.write("info", message)

    def debug(self, message: str) -> None:
        """How it was done."""
        self.write("debug", message)


def parse_level(text: str) -> str | None:
    """The level of ``level`` or ``scope:level,…``; of several scopes, that of ``default`` or ``all``, else the last."""
    main = last = None
    for item in text.split(","):
        scope, colon, level = item.strip().rpartition(":")
        if level not in LEVELS or (colon and not scope):
            return None
        if scope in ("", "default", "all"):
            main = level
        last = level
    return main or last
