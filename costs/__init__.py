"""What work took: seconds, bytes, energy and CO2."""
