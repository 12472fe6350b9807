"""Reading, computing and committing, overlapped, here or on dask workers."""
