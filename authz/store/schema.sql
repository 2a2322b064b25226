-- The embedded store, version 1. Times are nanoseconds since the Unix epoch; amounts are in the meter's unit.

-- One row for each counter: `tally` is authz.quota.windows.Tally, packed. An id is never used again (AUTOINCREMENT), because
-- reservations and the journal speak of counters by id and may outlive one.
-- ends_ns: when the newest bucket stops counting; from then on the row holds nothing that anybody needs.
CREATE TABLE counters (
  id      INTEGER PRIMARY KEY AUTOINCREMENT,
  name    TEXT NOT NULL UNIQUE,
  ends_ns INTEGER NOT NULL,
  tally   BLOB NOT NULL
) STRICT;

-- state: index into authz.store.sqlite.STATES; 0 is pending, 3 is expired.
-- body:  charges and terms as they were asked for; equal bytes mean the same request.
-- lines: for each counter its id, the bucket, and what was reserved and posted in it.
CREATE TABLE reservations (
  no          INTEGER PRIMARY KEY,
  id          TEXT NOT NULL UNIQUE,
  retry_key   TEXT NOT NULL,
  request_id  TEXT NOT NULL,
  state       INTEGER NOT NULL,
  created_ns  INTEGER NOT NULL,
  deadline_ns INTEGER NOT NULL,
  body        BLOB NOT NULL,
  lines       BLOB NOT NULL
) STRICT;

-- Partial, so that they stay as small as what is under way.
CREATE INDEX reservations_by_retry_key ON reservations (retry_key) WHERE state = 0 AND retry_key <> '';
CREATE INDEX reservations_by_deadline ON reservations (deadline_ns) WHERE state = 0;
CREATE INDEX reservations_by_request ON reservations (request_id) WHERE state IN (0, 3) AND request_id <> '';

-- Append-only. Balances are the sums of `lines` (counter id, bucket, change of posted, change of pending) over all entries.
-- entry: index into authz.store.sqlite.ENTRIES.
CREATE TABLE journal (
  seq         INTEGER PRIMARY KEY,
  at_ns       INTEGER NOT NULL,
  entry       INTEGER NOT NULL,
  reservation TEXT NOT NULL,
  lines       BLOB NOT NULL
) STRICT;

-- What pruned entries of the journal add up to, for the buckets that still count.
CREATE TABLE opening (
  counter INTEGER NOT NULL,
  bucket  INTEGER NOT NULL,
  posted  INTEGER NOT NULL,
  pending INTEGER NOT NULL,
  PRIMARY KEY (counter, bucket)
) STRICT, WITHOUT ROWID;

-- One row for each threshold reached in a period: that is what makes an alert be told once.
CREATE TABLE alerts (
  counter   INTEGER NOT NULL,
  bucket    INTEGER NOT NULL,
  threshold INTEGER NOT NULL,
  at_ns     INTEGER NOT NULL,
  body      BLOB NOT NULL,
  PRIMARY KEY (counter, bucket, threshold)
) STRICT, WITHOUT ROWID;

-- What is settled and what expired. What is pending is summed from `reservations` when it is asked for.
CREATE TABLE usage (
  day           TEXT NOT NULL,
  organisation  TEXT NOT NULL,
  team          TEXT NOT NULL,
  user          TEXT NOT NULL,
  key           TEXT NOT NULL,
  model         TEXT NOT NULL,
  requests      INTEGER NOT NULL,
  input_tokens  INTEGER NOT NULL,
  cached_tokens INTEGER NOT NULL,
  output_tokens INTEGER NOT NULL,
  cost_nanousd  INTEGER NOT NULL,
  PRIMARY KEY (day, organisation, team, user, key, model)
) STRICT, WITHOUT ROWID;

CREATE TABLE issued_keys (
  digest     TEXT PRIMARY KEY,
  key        TEXT NOT NULL,
  created_ns INTEGER NOT NULL,
  expires_ns INTEGER NOT NULL,
  revoked_ns INTEGER NOT NULL,
  sequence   INTEGER NOT NULL UNIQUE,
  note       TEXT NOT NULL
) STRICT, WITHOUT ROWID;
