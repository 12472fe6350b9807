"""Which image each row is: manifests, parts, versions and growth."""
