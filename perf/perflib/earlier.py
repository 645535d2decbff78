"""Samples that an earlier run of a benchmark left behind."""

import json

from demolib import bed as beds


def read(path):
    """What is there; nothing when there was no such run."""
    try:
        with open(path, encoding="utf-8") as source:
            return json.load(source)
    except FileNotFoundError:
        return []
    except ValueError as error:
        raise beds.DemoError(f"{path} cannot be taken up: {error}; run without --resume") from None
