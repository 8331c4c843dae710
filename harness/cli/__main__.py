"""`python -m harness.cli`, which cluster jobs call."""

from harness.cli import main

main()
