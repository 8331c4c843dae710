"""A trained student as a file that others load, judged through the file's own runtime."""
