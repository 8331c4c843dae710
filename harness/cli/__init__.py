"""The command `sstkd-bench`: words in, words out; one file per command."""


def main() -> None:
    """Entry point of `sstkd-bench`."""
    from harness.borders import guard
    from harness.cli.app import app

    guard()
    app()
