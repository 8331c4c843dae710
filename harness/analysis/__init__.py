"""Rows become statistics and tables as data. No torch, no Ray, no plotting."""
