"""The demo, and what it shares with the tests: a stand-in for Groq and a runner for the real Envoy."""
