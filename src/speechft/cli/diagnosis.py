"""The verb that looks at this installation: doctor."""

from __future__ import annotations

import json

from speechft.cli.app import Json, app
from speechft.console import say
from speechft.errors import PackageError
from speechft.extras import CORE


@app.command()
def doctor(as_json: Json = False) -> None:
    """Say what is installed, what this machine can do, and what is missing for which verb.

    Imports torch to ask it for devices. Ends with exit code 1 if the core does not work here.

    Example: speechft doctor --json
    """
    from speechft.diagnosis import doctor as look

    found = look()
    say(json.dumps(found.as_dict()) if as_json else "\n".join(found.lines()))
    if found.problems:
        raise PackageError("; ".join(found.problems), hint=CORE)
