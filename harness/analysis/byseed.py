"""A value by seed, as tables keep their runs and scores."""
