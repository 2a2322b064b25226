"""gRPC over HTTP/2 on Unix sockets, and no more of either than Envoy needs: unary calls, at a tenth of grpc.aio's cost, and
streams of messages that are heard and answered with an empty one.

`connection.py` is the protocol without sockets and without a clock; `listener.py` moves its bytes; `seam.py` is what the rest
of authz sees. Why it is our own: docs/decisions/0010-transport.md.
"""

from authz.transport.limits import Limits
from authz.transport.listener import Listener
from authz.transport.seam import INVALID_ARGUMENT, NOT_FOUND, UNKNOWN, Answerer, Call, Hearer, Line, Unheard

__all__ = ["INVALID_ARGUMENT", "NOT_FOUND", "UNKNOWN", "Answerer", "Call", "Hearer", "Limits", "Line", "Listener", "Unheard"]
