"""The entry point: runs a command, and turns whatever ends it into one line on stderr and an exit code.

    0  done
    1  failed: the line says why
    2  wrong usage: what was given can't be right, whatever is in the store
    130  interrupted by Ctrl-C (128 + SIGINT)

Little is imported here, and the rest inside `run`, so that Ctrl-C while Python still loads is one line as
well.
"""

import os
import signal
import sys
from collections.abc import Sequence
from typing import NoReturn

EXIT_FAILED = 1
EXIT_USAGE = 2
EXIT_INTERRUPTED = 130


def main() -> NoReturn:
    """Run the command that the process was started with, and exit."""
    sys.exit(run(sys.argv[1:]))


def run(arguments: Sequence[str]) -> int:
    """Run one command line and return its exit code. Nothing is raised; errors are told on stderr."""
    debug = "--debug" in arguments
    try:
        from dasfs.cli.app import invoke

        code = invoke(list(arguments))
        sys.stdout.flush()
        return code
    except KeyboardInterrupt as error:
        # A second Ctrl-C, while threads are waited for, ends the process at once and without a traceback.
        signal.signal(signal.SIGINT, signal.SIG_DFL)
        return _tell(
            error,
            debug,
            EXIT_INTERRUPTED,
            f"interrupted; {error.args[0] if error.args else 'repeat the same command to go on'}",
        )
    except BrokenPipeError:
        # Whoever read our output has left, as `head` does: nothing to say, and nowhere to say it.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return EXIT_FAILED
    except Exception as error:  # noqa: BLE001 - the last door: a user never sees a traceback that was not asked for
        return _explain(error, debug)


def _explain(error: Exception, debug: bool) -> int:
    """Tell an error in one line and return its exit code."""
    import click

    from dasfs.errors import DasfsError

    if isinstance(error, DasfsError):
        return _tell(error, debug, error.exit_code, str(error))
    if isinstance(error, click.UsageError):
        command = error.ctx.command_path if error.ctx else "dasfs"
        return _tell(error, debug, EXIT_USAGE, f"{error.format_message().rstrip('.')}; see '{command} --help'")
    if isinstance(error, click.ClickException):
        return _tell(error, debug, error.exit_code, error.format_message())
    if isinstance(error, click.Abort):
        return _tell(error, debug, EXIT_FAILED, "not confirmed; nothing was changed")
    if isinstance(error, MemoryError):
        return _tell(error, debug, EXIT_FAILED, "out of memory; use fewer --jobs or smaller dataranges")
    hint = "run 'dasfs --debug ...' for the traceback"
    return _tell(error, debug, EXIT_FAILED, f"unexpected {type(error).__name__}: {error}; {hint}")


def _tell(error: BaseException, debug: bool, code: int, message: str) -> int:
    if debug:
        import traceback

        traceback.print_exception(error)
    sys.stderr.write(f"dasfs: {' '.join(message.split())}\n")
    return code
