"""Shared services of all packages: atomic files, processes, signals, devices, dask."""
