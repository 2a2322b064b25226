"""Coverage-guided fuzzing. Whatever comes in, the outcome is a decision or one declared error: anything else is a crash.

A target is one module of this package with `SEEDS`, inputs that get far, and `target()`, which makes a function from bytes to
the name of the outcome. `python -m tests.fuzz` runs them in turn; `corpus/` keeps what runs have found worth keeping.
"""

TARGETS = (
    "check_bytes",
    "json_bodies",
    "multipart_bodies",
    "batch_files",
    "tokens",
    "usage",
    "access_log",
    "bundles",
    "transport_bytes",
    "transport_frames",
)
