"""Run the command line inside the test's process: an interpreter with torch takes seconds to start."""

import io
import os
import sys
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path
from subprocess import CompletedProcess
from unittest.mock import patch

from minidistill.cli import main


def call(*arguments, cwd: Path | None = None) -> CompletedProcess:
    """What `python -m minidistill ARGUMENTS` prints, and its exit status."""
    argv = ["minidistill", *map(str, arguments)]
    out, err, status, before = io.StringIO(), io.StringIO(), 0, Path.cwd()
    os.chdir(cwd or before)
    try:
        with redirect_stdout(out), redirect_stderr(err), patch.object(sys, "argv", argv):
            main()
    except SystemExit as end:
        status = end.code or 0
    finally:
        os.chdir(before)
    return CompletedProcess(argv, status, out.getvalue(), err.getvalue())
