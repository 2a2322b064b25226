--! keys: issued issued_order meta audit
-- Adds an entry to the audit chain together with the rows of issued keys that it tells of, all or nothing.
--
-- ARGV  the entry's number; the entry; for each row its digest, the sequence under which it has to be kept (0: not yet), the row
-- Answers 1, also where the chain has this very entry already; 0 where chain or rows have moved on.

local number = tonumber(ARGV[1])
local last = redis.call('LLEN', AUDIT)
if number <= last then
  return redis.call('LINDEX', AUDIT, number - 1) == ARGV[2] and 1 or 0
end
if number ~= last + 1 then
  return 0
end
for at = 3, #ARGV, 3 do
  if tonumber(redis.call('ZSCORE', ISSUED_ORDER, ARGV[at]) or 0) ~= tonumber(ARGV[at + 1]) then
    return 0
  end
end
redis.call('RPUSH', AUDIT, ARGV[2])
for at = 3, #ARGV, 3 do
  redis.call('HSET', ISSUED, ARGV[at], ARGV[at + 2])
  redis.call('ZADD', ISSUED_ORDER, redis.call('HINCRBY', META, 'keys', 1), ARGV[at])
end
return 1
