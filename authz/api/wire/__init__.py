"""Generated from proto/authz/v1 by `make proto`. Only `authz.api` imports them."""
