"""The entry point: runs a command, and turns whatever ends it into one line on stderr and an exit code.

    0  done
    1  failed: the line says why
    2  wrong usage: what was given can't be right, whatever is in the store
    130  interrupted by Ctrl-C (128 + SIGINT)

Only what Python has loaded by itself is imported here, and the rest inside `run`, so that Ctrl-C while Python still
loads is one line as well.
"""

import errno
import os
import signal
import sys

EXIT_FAILED = 1
EXIT_USAGE = 2
EXIT_INTERRUPTED = 130


def main() -> None:
    """Run the command that the process was started with, and exit."""
    sys.exit(run(sys.argv[1:]))


def run(arguments: list[str]) -> int:
    """Run one command line and return its exit code. Nothing is raised; errors are told on stderr."""
    debug = "--debug" in arguments
    _fill_streams()
    try:
        from dasfs.cli.app import invoke

        code = invoke(arguments)
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
        _drop_output()
        return EXIT_FAILED
    except Exception as error:  # noqa: BLE001 - the last door: a user never sees a traceback that was not asked for
        return _explain(error, debug)


def _fill_streams() -> None:
    """Open /dev/null where the process was started with a standard stream closed, which Python leaves as None."""
    for name, mode in (("stdin", "r"), ("stdout", "w"), ("stderr", "w")):
        if getattr(sys, name) is None:
            setattr(sys, name, open(os.devnull, mode))  # noqa: SIM115


def _drop_output() -> None:
    """Throw away what stands in the buffer of stdout, so that Python does not try to write it at its end."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


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
    if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
        # What fills up elsewhere is a DasfsError: this is `dasfs ... > FILE`.
        _drop_output()
        return _tell(error, debug, EXIT_FAILED, f"can't write the output: {error.strerror}")
    if isinstance(error, MemoryError):
        return _tell(error, debug, EXIT_FAILED, "out of memory; use fewer --jobs or smaller dataranges")
    hint = "run 'dasfs --debug ...' for the traceback"
    return _tell(error, debug, EXIT_FAILED, f"unexpected {type(error).__name__}: {error}; {hint}")


def _tell(error: BaseException, debug: bool, code: int, message: str) -> int:
    if debug:
        import traceback

        traceback.print_exception(error)
    from dasfs.cli.service import is_journal

    # The journal takes this for the line's priority: an error.
    sys.stderr.write(f"{'<3>' if is_journal() else ''}dasfs: {' '.join(message.split())}\n")
    return code
