"""Trials of hyper-parameters and the best point, by Ray Tune."""
