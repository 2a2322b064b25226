"""On whose behalf a command changes or shows something: a user of the directory, whom the bundle's policies must permit it.

Whoever can write to the store could do so without this command. So this keeps people to what they were given and the audit
chain to what they did, beside the operating system's own name of them; what keeps others out are the modes of the store's file,
or the store's own accounts.
"""

from __future__ import annotations

import os
import pwd
from typing import TYPE_CHECKING

import click

if TYPE_CHECKING:
    from authz.administration import Administrator
    from authz.bundle import Bundle
    from authz.settings import Settings

as_user = click.option(
    "--as", "user", metavar="USER", help="The user of the directory who acts; the settings' `operator` by default."
)


def administrator(settings: Settings, bundle: Bundle, user: str | None, now_ns: int) -> Administrator:
    """Raises `ConfigError` where nobody is named, `NotPermitted` for a user who is not in force."""
    from authz.administration import Administrator
    from authz.errors import ConfigError

    name = user or settings.operator
    if not name:
        raise ConfigError("authz.yaml", "nobody is named who acts, expected --as USER, or `operator` in the settings")
    return Administrator.user(bundle, name, now_ns)


def login() -> str:
    """The operating system's name of whoever runs this."""
    number = os.getuid()
    try:
        return pwd.getpwuid(number).pw_name
    except KeyError:  # a container's user need not have a name
        return str(number)
