"""Weights: found, fetched, read without running anything, and loaded strictly."""
