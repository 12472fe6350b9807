"""Numbers in sentences."""


def counted(number: int, noun: str) -> str:
    """Write so many things: ``1 picture``, ``3 pictures``."""
    return f"{number} {noun}{'' if number == 1 else 's'}"
