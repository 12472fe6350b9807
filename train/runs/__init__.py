"""The RUN folder: trained, written, scored and updated."""
