"""May they: Cedar policies, sliced by scope, evaluated on the entities that a request reaches. The one importer of cedarpy."""

from authz.policy.actions import ACTIONS, Kind
from authz.policy.cedar import CedarError, Schema
from authz.policy.context import AdminContext, Context, Percents
from authz.policy.engine import PolicyEngine, SchemaMismatch, Verdict
from authz.policy.entities import Entity, EntityError
from authz.policy.guard import CedarText
from authz.policy.policies import Effect, Link, LinkError, Mode, Policy, policy_problems, read_policies, read_schema

__all__ = [
    "ACTIONS",
    "AdminContext",
    "CedarError",
    "CedarText",
    "Context",
    "Effect",
    "Entity",
    "EntityError",
    "Kind",
    "Link",
    "LinkError",
    "Mode",
    "Percents",
    "Policy",
    "PolicyEngine",
    "Schema",
    "SchemaMismatch",
    "Verdict",
    "policy_problems",
    "read_policies",
    "read_schema",
]
