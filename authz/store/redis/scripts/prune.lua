--! keys: counters names heads bodies requests ended journal opening told alerts lessons lesson_order belongings belonging_order belongings_due meta
--! with: moment tally index
-- Forgets what ended long ago, a bounded piece at a time.
--
-- ARGV  the moment; how long things are kept, as seconds and nanoseconds; how many of each kind to look at; where the walk over the
--       counters goes on; how long alerts are kept at least, in seconds
-- Answers {how many were forgotten, where the walk goes on}

local now = moment(ARGV[1])
local before = shifted(now, -ARGV[2], -ARGV[3])
local at_most = tonumber(ARGV[4])
local gone = 0

-- Reservations that have ended.
for _, member in ipairs(redis.call('ZRANGEBYLEX', ENDED, '-', '(' .. before, 'LIMIT', 0, at_most)) do
  local id = id_of(member)
  local head = cmsgpack.unpack(redis.call('HGET', HEADS, id))
  redis.call('HDEL', HEADS, id)
  redis.call('HDEL', BODIES, id)
  redis.call('ZREM', ENDED, member)
  if head[5] ~= '' then
    redis.call('ZREM', REQUESTS, request_prefix(head[5]) .. id)
  end
  gone = gone + 1
end

-- The oldest entries of the journal. They are added to the opening balances, as far as their buckets still count; so a replay
-- comes out the same.
local sums, taken = {}, 0
for _, packed in ipairs(redis.call('LRANGE', JOURNAL, 0, at_most - 1)) do
  local entry = cmsgpack.unpack(packed)
  if entry[1] >= before then
    break
  end
  for at = 4, #entry, 4 do
    local buckets = sums[entry[at]] or {}
    local cell = buckets[entry[at + 1]] or {0, 0}
    sums[entry[at]], buckets[entry[at + 1]] = buckets, cell
    cell[1], cell[2] = cell[1] + entry[at + 2], cell[2] + entry[at + 3]
  end
  taken = taken + 1
end
for counter, buckets in pairs(sums) do
  local name = redis.call('HGET', NAMES, counter)
  if name then
    local _, _, tally = opened(redis.call('HGET', COUNTERS, name))
    local kept, opening = redis.call('HGET', OPENING, counter), {}
    kept = kept and cmsgpack.unpack(kept) or {}
    for at = 1, #kept, 3 do
      local cell = buckets[kept[at]] or {0, 0}
      buckets[kept[at]] = {cell[1] + kept[at + 1], cell[2] + kept[at + 2]}
    end
    for bucket, cell in pairs(buckets) do
      if cell_of(tally, bucket) then
        local size = #opening
        opening[size + 1], opening[size + 2], opening[size + 3] = bucket, cell[1], cell[2]
      end
    end
    redis.call('HSET', OPENING, counter, cmsgpack.pack(opening))
  end
end
redis.call('LTRIM', JOURNAL, taken, -1)
gone = gone + taken

-- Counters whose newest bucket has long stopped counting and in which nothing is pending.
local walk = redis.call('HSCAN', COUNTERS, ARGV[5], 'COUNT', at_most)
for at = 1, #walk[2], 2 do
  local id, ends, tally = opened(walk[2][at + 1])
  local _, pending = struct.unpack('<i8i8', tally)
  if ends < before and pending == 0 then
    redis.call('HDEL', COUNTERS, walk[2][at])
    redis.call('HDEL', NAMES, id)
    redis.call('HDEL', OPENING, id)
    redis.call('HDEL', TOLD, walk[2][at])
    gone = gone + 1
  end
end

-- Alerts, by their number, but none that may still be delivered.
local offered = shifted(now, -ARGV[6], 0)
local last_alert = before < offered and before or offered
local first = tonumber(redis.call('HGET', META, 'alerts_gone') or 0) + 1
for no = first, first + at_most - 1 do
  local row = redis.call('HGET', ALERTS, no)
  if not row or cmsgpack.unpack(row).at_ns >= last_alert then
    break
  end
  redis.call('HDEL', ALERTS, no)
  redis.call('HSET', META, 'alerts_gone', no)
  gone = gone + 1
end

-- Lessons that nobody has added to.
for _, field in ipairs(redis.call('ZRANGE', LESSON_ORDER, 0, at_most - 1)) do
  if cmsgpack.unpack(redis.call('HGET', LESSONS, field))[2] >= before then
    break
  end
  redis.call('HDEL', LESSONS, field)
  redis.call('ZREM', LESSON_ORDER, field)
  gone = gone + 1
end

-- Files and batches, the oldest first.
for _, member in ipairs(redis.call('ZRANGEBYLEX', BELONGING_ORDER, '-', '(' .. before, 'LIMIT', 0, at_most)) do
  local id = member:sub(20)
  redis.call('HDEL', BELONGINGS, id)
  redis.call('ZREM', BELONGINGS_DUE, id)
  redis.call('ZREM', BELONGING_ORDER, member)
  gone = gone + 1
end
return {gone, walk[1]}
