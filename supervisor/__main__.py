"""`fsmv2` and `python -m fsmv2.supervisor`.

Knows: where the command line lives, and that it wants its three streams. Must be cheap and free
of effects at import: a started process imports its parent's main module again.
"""

from __future__ import annotations


def main() -> None:
    """Run the command line."""
    from fsmv2.supervisor.system import standardstreams

    # Before anything is opened that would take the place of one that is closed.
    standardstreams.ensure()
    from fsmv2.supervisor.commandline.cli import cli
    from fsmv2.supervisor.commandline.output import run_with_output

    run_with_output(lambda: cli.main(prog_name="fsmv2"))


if __name__ == "__main__":
    main()
