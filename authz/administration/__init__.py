"""What people may do to keys, whoever asks for them: the command line and the admin page come through here."""

from authz.administration.administrator import Administrator, NotPermitted
from authz.administration.desk import KeyDesk, Rotated, SecretRow, State

__all__ = ["Administrator", "KeyDesk", "NotPermitted", "Rotated", "SecretRow", "State"]
