"""One run from its first step to its result, in any process."""
