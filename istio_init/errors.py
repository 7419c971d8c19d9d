"""The tree of errors. Each says what failed, with the offending value, and what to do; each knows its exit code."""

from __future__ import annotations


class IstioInitError(Exception):
    """Base of everything that this package raises on purpose.

    ``exit_code`` is the process's exit status for it; ``fix`` says what the reader can do.
    """

    exit_code = 1

    def __init__(self, message: str, *, fix: str | None = None) -> None:
        super().__init__(message, fix)
        self.message = message
        self.fix = fix

    def __reduce__(self) -> tuple[object, ...]:
        return _rebuild, (type(self), dict(self.__dict__))

    def __str__(self) -> str:
        return f"{self.message}\n  {self.fix}" if self.fix else self.message


def _rebuild(cls: type[IstioInitError], state: dict[str, object]) -> IstioInitError:
    """Make an error again that crossed a process boundary."""
    error = cls.__new__(cls)
    error.__dict__.update(state)
    error.args = (error.message, error.fix)
    return error


def error_json(error: IstioInitError, status: int) -> dict[str, object]:
    """An error as JSON values; see istio_init/schemas/error.schema.json."""
    return {"message": error.message, "fix": error.fix, "exit_code": status}


class ConfigError(IstioInitError):
    """The configuration is wrong; ``problems`` lists everything that is, each as "what: why; what to do"."""

    exit_code = 2

    def __init__(self, problems: tuple[str, ...]) -> None:
        count = f"{len(problems)} problems" if len(problems) > 1 else "a problem"
        super().__init__("\n".join([f"{count} in the configuration:", *(f"  - {problem}" for problem in problems)]))
        self.problems = problems


class InputError(IstioInitError):
    """A file that was named cannot be read, or does not hold what it should."""

    exit_code = 2


class NamespaceError(IstioInitError):
    """There is no such network namespace, or programming it is refused."""

    exit_code = 4


class PrivilegeError(IstioInitError):
    """A capability is missing."""

    exit_code = 5


class NoBackendError(IstioInitError):
    """No iptables can be used here: a binary or the kernel's part of it is missing."""

    exit_code = 6


class ToolError(IstioInitError):
    """The kernel or a tool refused; the tool's own words are in the message."""


class LackError(ToolError):
    """The kernel or the tool lacks something that the rules need: a table, a match, a target."""


class ForeignRulesError(ToolError):
    """A table of iptables' holds rules that nft wrote and iptables cannot print."""


class BusyError(ToolError):
    """Somebody else kept the lock, or kept writing, for longer than we were told to wait."""


class NotWantedError(IstioInitError):
    """The namespace holds rules of ours that this configuration does not want, and replacing them was not asked for."""


class VerificationError(IstioInitError):
    """After the commit the kernel does not hold what was asked for."""


class ValidationError(IstioInitError):
    """Traffic does not flow as the configuration has it. The exit code is the one of Istio's own validation."""

    exit_code = 126
