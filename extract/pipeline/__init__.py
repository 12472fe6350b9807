"""Images are read, computed and committed at the same time, in this process or on dask workers."""
