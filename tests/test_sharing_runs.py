"""What a team shares besides the store: permissions of RUN folders, and refusals told as what they are."""

from test_finetune import tiny_data  # noqa: F401
