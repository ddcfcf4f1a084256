"""Three graded notebooks: student versions from one source, and marks for a folder of submissions, with nbgrader."""
