--! keys: issued issued_order
-- Issued keys that changed after ARGV[1], in that order and ARGV[2] of them at most: row, sequence, row, sequence, ...

local found = {}
local changed = redis.call('ZRANGEBYSCORE', ISSUED_ORDER, '(' .. ARGV[1], '+inf', 'WITHSCORES', 'LIMIT', 0, ARGV[2])
for at = 1, #changed, 2 do
  found[at], found[at + 1] = redis.call('HGET', ISSUED, changed[at]), changed[at + 1]
end
return found
