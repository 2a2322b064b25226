-- Windows. Lua knows no time zones, so a calendar window comes with the first seconds of a few periods around the caller's clock.
-- A counter comes from the caller as {name, kind, ...}: kind 0 is a gauge, 1 is sliding, followed by the length of a sub-bucket
-- in microseconds, 2 is a calendar window, followed by the first seconds of consecutive periods.

local GAUGE, SLIDING, CALENDAR = 0, 1, 2

-- The bucket of a moment, nil where it is outside the periods that came.
local function bucket_at(counter, now_us)
  local kind = counter[2]
  if kind == SLIDING then
    return (now_us - now_us % counter[3]) / counter[3]
  elseif kind == GAUGE then
    return 0
  end
  local found
  for at = 3, #counter do
    if now_us < counter[at] * 1e6 then
      return found
    end
    found = counter[at]
  end
end

-- The oldest bucket that counts while `bucket` is the current one.
local function oldest_live(counter, bucket)
  return counter[2] == SLIDING and bucket - 60 or bucket
end

-- When `bucket` stops counting; nil where it lies ahead of the periods that came: whoever charged to it first has said when.
local function ends_of(counter, bucket, now)
  local kind = counter[2]
  if kind == SLIDING then
    return string.format('%016.0f000', (bucket + 61) * counter[3])
  elseif kind == GAUGE then
    return now
  end
  for at = 3, #counter - 1 do
    if counter[at] == bucket then
      return string.format('%010d000000000', counter[at + 1])
    end
  end
end

-- What the period's raises add up to stands under this name.
local function raise_field(name, bucket)
  return string.format('%.0f:', bucket) .. name
end

local function in_force(limit, raised)
  return math.min(MAX, math.max(0, limit + raised))
end

-- Each counter as it stands: {value (false for none), id, ends, tally, bucket, raised, added}; nil where a moment is outside the
-- periods that came. `added` is what `charge` has added to the bucket and `save` has still to write.
local function accounts(counters, now_us)
  local found, names, fields = {}, {}, {}
  for index, counter in ipairs(counters) do
    names[index] = counter[1]
  end
  local values = #names > 0 and redis.call('HMGET', COUNTERS, unpack(names)) or {}
  for index, counter in ipairs(counters) do
    local account = {value = values[index], raised = 0, added = 0, tally = EMPTY}
    if account.value then
      account.id, account.ends, account.tally = opened(account.value)
    end
    local bucket = bucket_at(counter, now_us)
    if not bucket then
      return nil
    end
    account.bucket = math.max(bucket, newest(account.tally) or bucket)
    found[index] = account
    if counter[2] == CALENDAR then
      fields[#fields + 1] = raise_field(counter[1], account.bucket)
    end
  end
  if #fields > 0 then
    local sums, at = redis.call('HMGET', RAISED, unpack(fields)), 0
    for index, counter in ipairs(counters) do
      if counter[2] == CALENDAR then
        at = at + 1
        found[index].raised = tonumber(sums[at] or 0)
      end
    end
  end
  return found
end

-- Charges an amount; answers what was counted. Later charges of this call meet it in `added`.
local function charge(counter, account, amount)
  amount = math.min(amount, MAX - total(account.tally) - account.added)
  if not account.id then
    account.id = redis.call('HINCRBY', META, 'counters', 1)
    redis.call('HSET', NAMES, account.id, counter[1])
  end
  account.added, account.charged = account.added + amount, true
  return amount
end

-- Writes what was charged: each counter once.
local function save(counters, found, now)
  local writes = {}
  for index, account in ipairs(found) do
    if account.charged then
      local counter, bucket = counters[index], account.bucket
      local keep = counter[2] == CALENDAR and 1 or 0
      account.tally = charged(account.tally, oldest_live(counter, bucket), keep, bucket, account.added)
      account.ends = ends_of(counter, bucket, now) or account.ends
      account.value = closed(account.id, account.ends, account.tally)
      writes[#writes + 1], writes[#writes + 2] = counter[1], account.value
    end
  end
  if #writes > 0 then
    redis.call('HSET', COUNTERS, unpack(writes))
  end
end

-- As the caller is told: the values as they were read or, after `save`, as they are; and the raises as one text, with a space
-- after each.
local function told_of(found)
  local values, raised = {}, ''
  for index, account in ipairs(found) do
    values[index] = account.value
    raised = raised .. (account.raised == 0 and '0 ' or string.format('%.0f ', account.raised))
  end
  return values, raised
end
