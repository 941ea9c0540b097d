"""From run folders to the tables and figures of a report."""
