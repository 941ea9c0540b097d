"""The pre-flight check: reads, measures, judges and shows."""
