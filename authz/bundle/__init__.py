"""Schema, policies, directory, prices, quotas and tests as one: loaded, checked and put in force together."""

from authz.bundle.bundle import Bundle, load_bundle, problems
from authz.bundle.cases import Case
from authz.bundle.current import BundleSource, Status

__all__ = ["Bundle", "BundleSource", "Case", "Status", "load_bundle", "problems"]
