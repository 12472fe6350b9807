"""`ImageSource` and the parts that all kinds of sources share: decoding, labels, open files."""
