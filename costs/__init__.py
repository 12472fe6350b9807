"""The room measures what work took: seconds, bytes, energy and CO2."""
