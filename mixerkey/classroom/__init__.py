"""What lessons need beside the method: figures, explorers for running notebooks, and checkers of exercises."""
