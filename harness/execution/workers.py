"""The actors and tasks of a launcher: thin, so that it loads no torch itself; `execution.worker` does the work."""
