"""Three graded assignments: see README.md."""
