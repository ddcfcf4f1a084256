"""What the book quotes: each module measures one thing and writes one receipt of its name to ``mixerkey/receipts``.

Run one as ``python -m mixerkey.experiments.NAME``. Finished work is kept, and a run that was killed goes on.
"""

from pathlib import Path

RUNS = Path("runs")  # networks and checkpoints on the way, in the folder where the command is run
