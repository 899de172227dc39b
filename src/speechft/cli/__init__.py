"""The command line: a file for each group of verbs; heavy imports happen inside the verb.

The order of the imports is the order of the verbs in ``speechft --help``.
"""

# isort: off
from speechft.cli import training, evaluation, using, sweeping, merging, data  # noqa: F401
from speechft.cli import encoders, units, publishing, lists, diagnosis  # noqa: F401
from speechft.cli.app import app, main

# isort: on

__all__ = ["app", "main"]
