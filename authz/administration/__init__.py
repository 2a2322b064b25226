"""What people may do to keys, whoever asks for them: the command line and the admin page come through here."""

from authz.administration.administrator import PUBLISH, READ, Administrator, NotPermitted, of_whom
from authz.administration.budgets import BudgetDesk
from authz.administration.desk import KeyDesk, Rotated, SecretRow, State

__all__ = [
    "PUBLISH",
    "READ",
    "Administrator",
    "BudgetDesk",
    "KeyDesk",
    "NotPermitted",
    "Rotated",
    "SecretRow",
    "State",
    "of_whom",
]
