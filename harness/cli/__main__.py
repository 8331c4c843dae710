"""`python -m harness.cli`, which cluster jobs call."""

from harness.cli.app import main

main()
