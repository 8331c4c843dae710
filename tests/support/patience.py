PATIENCE = 900.0
"""Seconds until something hangs, however slow and crowded the machine is; nothing waits that long if all is well."""
