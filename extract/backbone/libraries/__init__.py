"""Networks of other libraries than timm: one door a library, and what the doors give."""
