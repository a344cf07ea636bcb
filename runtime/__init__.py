"""The ground floor: files written whole or not at all, processes, signals, devices, dask."""
