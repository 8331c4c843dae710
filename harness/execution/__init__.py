"""Ray: where runs run, which is next, and what happens when something dies."""
