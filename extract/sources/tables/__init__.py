"""Images in Arrow and Parquet tables, and lists of image files."""
