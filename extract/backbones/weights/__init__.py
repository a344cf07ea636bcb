"""Weights: found, downloaded, read without running code from the file, and loaded strictly."""
