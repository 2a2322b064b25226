--! keys: issued issued_order
-- Issued keys that changed after ARGV[1], in that order: digest, row, sequence, digest, row, sequence, ...

local found = {}
local changed = redis.call('ZRANGEBYSCORE', ISSUED_ORDER, '(' .. ARGV[1], '+inf', 'WITHSCORES')
for at = 1, #changed, 2 do
  local size = #found
  found[size + 1], found[size + 2] = changed[at], redis.call('HGET', ISSUED, changed[at])
  found[size + 3] = changed[at + 1]
end
return found
