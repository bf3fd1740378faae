"""What the tools that fetch from the Hugging Face hub share."""


def quiet_hub() -> None:
    """Keep the hub client's reports of its own retries off the screen; what fails in the end is still raised."""
    from huggingface_hub.utils import logging

    logging.set_verbosity_error()


def first_line(error: BaseException) -> str:
    """Return the first line of an error's message, or its kind if it has none."""
    return (str(error).strip() or type(error).__name__).splitlines()[0]
