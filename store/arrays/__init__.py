"""One stored array: its units, their bytes in Zarr or HDF5, and the ledger of finished units."""
