"""What runs say while they run, kept in a small process of its own that loads nothing heavy."""
