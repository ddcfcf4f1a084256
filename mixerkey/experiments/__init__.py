"""What the book quotes: each module measures one thing and writes one receipt of its name to ``mixerkey/receipts``.

Run one as ``python -m mixerkey.experiments.NAME``. Finished work is kept, and a run that was killed goes on.
"""

import argparse
from pathlib import Path

RUNS = Path("runs")  # networks and checkpoints on the way, in the folder where the command is run


def command_line(what: str, receipt: Path) -> argparse.ArgumentParser:
    """The options of an experiment: ``--out``, and what it adds."""
    parser = argparse.ArgumentParser(description=what)
    parser.add_argument("--out", type=Path, default=receipt, help="receipt to write, or to go on with")
    return parser
