"""Our own gRPC services, beside the two that are Envoy's."""
