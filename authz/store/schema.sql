-- The embedded store, version 3. Times are nanoseconds since the Unix epoch; amounts are in the meter's unit.

-- One row for each counter: `tally` is authz.quota.windows.Tally, packed. An id is never used again (AUTOINCREMENT), because
-- reservations and the journal speak of counters by id and may outlive one.
-- ends_ns: when the newest bucket stops counting; from then on the row holds nothing that anybody needs.
-- raised:  what the raises of raised_bucket add up to; of any other bucket, nothing.
CREATE TABLE counters (
  id            INTEGER PRIMARY KEY AUTOINCREMENT,
  name          TEXT NOT NULL UNIQUE,
  ends_ns       INTEGER NOT NULL,
  tally         BLOB NOT NULL,
  raised_bucket INTEGER NOT NULL DEFAULT 0,
  raised        INTEGER NOT NULL DEFAULT 0
) STRICT;

-- Append-only, and kept for ever: who changed a budget by hand, and why. By the counter's name, because that outlives its row.
CREATE TABLE raises (
  no      INTEGER PRIMARY KEY,
  id      TEXT NOT NULL UNIQUE,
  quota   TEXT NOT NULL,
  scope   TEXT NOT NULL,
  counter TEXT NOT NULL,
  bucket  INTEGER NOT NULL,
  amount  INTEGER NOT NULL,
  who     TEXT NOT NULL,
  why     TEXT NOT NULL,
  at_ns   INTEGER NOT NULL
) STRICT;

CREATE INDEX raises_by_period ON raises (counter, bucket);

-- state: index into authz.store.sqlite.STATES; 0 is pending, 3 is expired.
-- id:    begins with the time in what our own processes make, so that new ones stand side by side in the index.
-- body:  charges and terms as they were asked for; equal bytes mean the same request.
-- lines: for each counter its id, the bucket, and what was reserved and posted in it.
CREATE TABLE reservations (
  no          INTEGER PRIMARY KEY,
  id          TEXT NOT NULL UNIQUE,
  request_id  TEXT NOT NULL,
  state       INTEGER NOT NULL,
  created_ns  INTEGER NOT NULL,
  deadline_ns INTEGER NOT NULL,
  body        BLOB NOT NULL,
  lines       BLOB NOT NULL
) STRICT;

-- Partial, so that they stay as small as what is under way.
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
  id        TEXT NOT NULL UNIQUE,
  at_ns     INTEGER NOT NULL,
  body      BLOB NOT NULL,
  PRIMARY KEY (counter, bucket, threshold)
) STRICT, WITHOUT ROWID;

CREATE INDEX alerts_by_time ON alerts (at_ns);

-- How far a target has been told of an alert. No row: not tried yet. next_ns: not offered before; a claim is a time in the future.
CREATE TABLE deliveries (
  target       TEXT NOT NULL,
  alert        TEXT NOT NULL,
  attempts     INTEGER NOT NULL,
  next_ns      INTEGER NOT NULL,
  delivered_ns INTEGER NOT NULL,
  PRIMARY KEY (target, alert)
) STRICT, WITHOUT ROWID;

-- counts: authz.quota.calibration.Counts, packed. Every change takes a new number, and none is used twice (AUTOINCREMENT).
CREATE TABLE lessons (
  sequence INTEGER PRIMARY KEY AUTOINCREMENT,
  key      TEXT NOT NULL,
  model    TEXT NOT NULL,
  at_ns    INTEGER NOT NULL,
  counts   BLOB NOT NULL,
  UNIQUE (key, model)
) STRICT;

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
  estimated_nanousd INTEGER NOT NULL,
  cost_nanousd  INTEGER NOT NULL,
  PRIMARY KEY (day, organisation, team, user, key, model)
) STRICT, WITHOUT ROWID;

-- body: authz.identity.keys.IssuedKey, packed. The sequence of a row grows with every change of any.
CREATE TABLE issued_keys (
  digest   TEXT PRIMARY KEY,
  sequence INTEGER NOT NULL UNIQUE,
  body     BLOB NOT NULL
) STRICT, WITHOUT ROWID;

-- Beside the rows and not in them: what is used all the time is not read again for it.
CREATE TABLE key_uses (
  digest  TEXT PRIMARY KEY,
  used_ns INTEGER NOT NULL
) STRICT, WITHOUT ROWID;

-- Append-only, and kept for ever. body: authz.audit.Entry as JSON, which carries the hash of the body before it.
CREATE TABLE audit (
  number INTEGER PRIMARY KEY,
  body   BLOB NOT NULL
) STRICT;

-- Files and batches at the upstream. body: authz.quota.belongings.Belonging, packed. due_ns: when somebody has to look after it.
CREATE TABLE belongings (
  id      TEXT PRIMARY KEY,
  made_ns INTEGER NOT NULL,
  due_ns  INTEGER,
  body    BLOB NOT NULL
) STRICT, WITHOUT ROWID;

CREATE INDEX belongings_by_age ON belongings (made_ns);
CREATE INDEX belongings_by_due ON belongings (due_ns) WHERE due_ns IS NOT NULL;

-- Counters of `authz.limiting`, outside the ledger: no journal knows them. `name` is a digest; `tally` is as in `counters`. A fixed
-- window is one bucket in a row that ends as a whole.
CREATE TABLE limits_windows (
  no      INTEGER PRIMARY KEY,
  name    BLOB NOT NULL UNIQUE,
  ends_ns INTEGER NOT NULL,
  tally   BLOB NOT NULL
) STRICT;

CREATE INDEX limits_windows_by_end ON limits_windows (ends_ns);
