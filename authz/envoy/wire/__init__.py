"""Generated from proto/authz/envoy/v3 by `make proto`: Envoy's messages, by number. Only `authz.envoy` imports them."""
