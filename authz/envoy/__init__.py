"""Envoy: its questions and reports decoded, our answers encoded, the configuration we write for it."""
