-- Counters. The value of one is its id (8 bytes), the moment at which its newest bucket ends (19 digits), and its tally, byte for
-- byte as authz.quota.windows.Tally packs it: total posted, total pending, then bucket, posted, pending for each bucket, oldest
-- first. It is never taken apart as a whole: what expires is cut off in front, what is charged stands at the end.
--
-- INVARIANT: what a counter holds in all, posted and pending, is at most MAX, so that every sum here is exact. What would go
-- above it is not counted: a counter at MAX is full for every limit that there can be.

local MAX = 9007199254740991
local EMPTY = struct.pack('<i8i8', 0, 0)

local function opened(value)
  return (struct.unpack('<i8', value)), value:sub(9, 27), value:sub(28)
end

local function closed(id, ends, tally)
  return struct.pack('<i8', id) .. ends .. tally
end

-- The newest bucket, nil where there is none.
local function newest(tally)
  if #tally > 16 then
    return (struct.unpack('<i8', tally, #tally - 23))
  end
end

-- Posted and pending in all buckets together.
local function total(tally)
  local posted, pending = struct.unpack('<i8i8', tally)
  return posted + pending
end

-- Posted and pending in `oldest` and all buckets after it.
local function used(tally, oldest)
  local left = total(tally)
  for at = 17, #tally, 24 do
    local bucket, posted, pending = struct.unpack('<i8i8i8', tally, at)
    if bucket >= oldest then
      break
    end
    left = left - posted - pending
  end
  return left
end

-- With a pending amount in `bucket`, which is the newest or later, and without what no longer counts; `keep` buckets before
-- `oldest` stay, for what settles late.
local function charged(tally, oldest, keep, bucket, amount)
  local posted, pending = struct.unpack('<i8i8', tally)
  local from = 17
  while from < #tally and (struct.unpack('<i8', tally, from)) < oldest do
    from = from + 24
  end
  from = math.max(17, from - 24 * keep)
  for at = 17, from - 1, 24 do
    local _, gone_posted, gone_pending = struct.unpack('<i8i8i8', tally, at)
    posted, pending = posted - gone_posted, pending - gone_pending
  end
  local cells = tally:sub(from)
  local last = newest(tally)
  local there_posted, there_pending = 0, 0
  if last == bucket then
    local _
    _, there_posted, there_pending = struct.unpack('<i8i8i8', tally, #tally - 23)
    cells = cells:sub(1, -25)
  end
  return struct.pack('<i8i8', posted, pending + amount)
    .. cells
    .. struct.pack('<i8i8i8', bucket, there_posted, there_pending + amount)
end

-- Where the cell of `bucket` begins, nil where it is no longer kept. What settles is mostly young: from the end.
local function cell_of(tally, bucket)
  for at = #tally - 23, 17, -24 do
    local found = struct.unpack('<i8', tally, at)
    if found <= bucket then
      return found == bucket and at or nil
    end
  end
end

-- With what the cell at `at` holds changed by both, and what is posted in it then.
local function changed(tally, at, posted, pending)
  local all_posted, all_pending = struct.unpack('<i8i8', tally)
  local bucket, there_posted, there_pending = struct.unpack('<i8i8i8', tally, at)
  there_posted, there_pending = there_posted + posted, there_pending + pending
  assert(there_posted >= 0 and there_pending >= 0, 'a counter would become negative')
  local after = struct.pack('<i8i8', all_posted + posted, all_pending + pending)
    .. tally:sub(17, at - 1)
    .. struct.pack('<i8i8i8', bucket, there_posted, there_pending)
    .. tally:sub(at + 24)
  return after, there_posted
end
