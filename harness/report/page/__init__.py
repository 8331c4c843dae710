"""The self-contained HTML page of an experiment."""
