"""Our window and our stores for users of the `limits` library, in its own notation and with its own habits.

```python
from limits import parse, storage
from authz.limiting import SlidingWindowLimiter

store = storage.storage_from_string("authz+sqlite:///var/limits.db")
limiter = SlidingWindowLimiter(store)
limiter.hit(parse("500/minute"), "chatbot", cost=3)
```

Importing this registers the storage schemes (`authz+` before any address of a store) and, for frameworks that take a strategy
by its name, `authz-sliding-window` in `limits.strategies.STRATEGIES`. For asyncio there is `authz.limiting.aio`.

What it promises that `limits` does not: in any span of a window's length no more than the limit is admitted; a key takes at
most 61 buckets (1.5 kB) whatever the cost of a hit; `hit_many` counts against several limits or against none.

What it gives away for that: a window is cut into sixtieths, and the oldest counts in full until all of it has passed. So an
amount counts for up to 61/60 of the window: somebody who keeps exactly to 60 a minute may now and then wait a second longer.
"""

from __future__ import annotations

from authz.limiting.storage import WindowStorage
from authz.limiting.strategy import SlidingWindowLimiter

__all__ = ["SlidingWindowLimiter", "WindowStorage"]
