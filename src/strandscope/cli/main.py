"""`strandscope`: the commands, and what the shell is told when one ends.

Exit codes: 0 done; 1 done, and a gate failed; 2 the command line or an input is wrong; 3 something is missing (a model, a file,
room on the disk); 4 the numbers could not be trusted; 5 our bug, with its traceback; 130 interrupted. What a user can mend is one
sentence on stderr.
"""

from __future__ import annotations

import errno
import os
import sys
import traceback
from collections.abc import Sequence

import click

from .. import __version__
from ..errors import StrandscopeError
from .audit import audit
from .calibrate import calibrate
from .census import census
from .doctor import doctor
from .erase import erase
from .export import export
from .find import find
from .law import law
from .monitor import monitor
from .report import report
from .serve import serve
from .steer import steer
from .watch import watch

BUG = "This is a bug in Strandscope: please report it with the lines above and the command that led to it."


@click.group(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.version_option(__version__, prog_name="strandscope")
def cli() -> None:
    """A measuring instrument for trained networks.

    Find the directions a concept is read on in a network, with honest evidence; push on them at a known dose, erase them
    with a certificate, watch them with a guaranteed false-alarm rate. MODEL is smollm2 (the embedded model), a hub id or
    id@revision, a folder, or a .gguf file.

    Exit codes: 0 done, 1 done and a gate failed, 2 usage or input, 3 something is missing, 4 the numbers cannot be trusted, 5
    a bug of ours, 130 interrupted.
    """


for _command in (audit, find, census, steer, erase, monitor, watch, export, serve, report, law, calibrate, doctor):
    cli.add_command(_command)


def run() -> None:
    """The entry point."""
    code = main()
    try:
        sys.stdout.flush()
    except OSError as error:
        code = _broken_output(error)
    sys.exit(code)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command line and return its exit code."""
    context = None
    try:
        with cli.make_context("strandscope", list(sys.argv[1:] if arguments is None else arguments)) as context:
            cli.invoke(context)
        sys.stdout.flush()
        return 0
    except click.exceptions.Exit as leaving:  # --help and --version
        return leaving.exit_code
    except click.ClickException as error:
        error.show()
        return error.exit_code
    except StrandscopeError as error:
        click.echo(f"Error: {error}", err=True)
        return error.exit_code
    except (KeyboardInterrupt, click.Abort):
        resumes = context is not None and context.invoked_subcommand in ("audit", "census")
        more = "started again with the same --out, it goes on where it was" if resumes else "run the same command again"
        click.echo(f"Interrupted; nothing was left half-written; {more}.", err=True)
        return 130
    except OSError as error:
        if error.errno not in (errno.EPIPE, errno.ENOSPC):
            return _bug()
        return _broken_output(error)
    except Exception:
        return _bug()


def _bug() -> int:
    traceback.print_exc()
    click.echo(BUG, err=True)
    return 5


def _broken_output(error: OSError) -> int:
    """Stdout is gone: a reader that has read enough (a closed pipe) is no error, a full disk is."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)  # so that the interpreter's own last flush finds somewhere to go
    if error.errno == errno.EPIPE:
        return 0
    click.echo(f"Error: cannot write the result to standard output: {error.strerror}; send it elsewhere and run again", err=True)
    return 3
