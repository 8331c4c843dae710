"""What is new in a status that is looked at again and again."""
