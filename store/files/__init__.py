"""How a file gets to a place whole and is read again, on disks and in buckets."""
