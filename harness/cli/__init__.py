"""The command `sstkd-bench`: words in, words out; one file per command."""
