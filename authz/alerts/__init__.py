"""Telling people that a budget has reached a threshold: the messages, where they go, and the delivery that does not give up."""

from __future__ import annotations

from authz.alerts.deliverer import Deliverer
from authz.alerts.webhooks import Format, Webhook, WebhookError

__all__ = ["Deliverer", "Format", "Webhook", "WebhookError"]
