"""What is right by every rule of the language and is probably not what was meant. One file for each family of rules."""

from authz.review.lint.rules import RULES, lint

__all__ = ["RULES", "lint"]
