"""`python -m sidecar`: the command line."""

from __future__ import annotations

import sys

from sidecar import cli


def main() -> int:
    """Run the command line with the process's arguments; returns the exit code."""
    return cli.main(sys.argv[1:])


if __name__ == "__main__":
    sys.exit(main())
