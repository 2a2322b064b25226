-- Counters outside the ledger. The value of one is the moment at which it stops counting (19 digits), and its tally. In
-- `limits_ends` each has a member, that moment and the name: what has ended stands in front.

local function row_of(name)
  local value = redis.call('HGET', LIMITS, name)
  if value then
    return value:sub(20), value:sub(1, 19)
  end
  return EMPTY, nil
end

local function put_row(name, tally, ends, ends_before)
  if ends ~= ends_before then
    if ends_before then
      redis.call('ZREM', LIMITS_ENDS, ends_before .. name)
    end
    redis.call('ZADD', LIMITS_ENDS, 0, ends .. name)
  end
  redis.call('HSET', LIMITS, name, ends .. tally)
end

local function forget_ended(before, at_most)
  for _, member in ipairs(redis.call('ZRANGEBYLEX', LIMITS_ENDS, '-', '(' .. before, 'LIMIT', 0, at_most)) do
    redis.call('ZREM', LIMITS_ENDS, member)
    redis.call('HDEL', LIMITS, member:sub(20))
  end
end
