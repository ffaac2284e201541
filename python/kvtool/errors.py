"""Errors with the exit status that a command ends with."""

from contextlib import contextmanager

EXIT_USAGE = 2
EXIT_ENVIRONMENT = 5


class KvtoolError(Exception):
    """A foreseeable failure. The message says what is wrong, where and what to do.

    `exit_code` is the status of the command that lets it through: it is what a
    shell or the `kvtool` binary sees.
    """

    exit_code = EXIT_USAGE


class UsageError(KvtoolError):
    """Wrong options, or input that the user can correct (exit status 2)."""


class UnsupportedModelError(KvtoolError):
    """The model cannot keep the contract of the engine (exit status 2)."""


class CheckFailedError(UnsupportedModelError):
    """The traced model does not agree with the original one (exit status 2)."""


class EnvironmentFailure(KvtoolError):
    """Something outside the request is missing: a package, a file, CUDA, disk space
    (exit status 5)."""

    exit_code = EXIT_ENVIRONMENT


@contextmanager
def foreign_errors(what: str):
    """Turns what a model's own code raises inside the block into an error of kvtool:
    EnvironmentFailure for exhausted memory, UnsupportedModelError for the rest. `what`
    says what failed."""
    try:
        yield
    except KvtoolError:
        raise
    except Exception as error:
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        no_memory = isinstance(error, MemoryError) or any(
            sign in str(error) for sign in ("out of memory", "can't allocate memory")
        )
        kind = EnvironmentFailure if no_memory else UnsupportedModelError
        raise kind(f"{what}: {type(error).__name__}: {reason}") from error
