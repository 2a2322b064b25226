--! keys: issued issued_order meta
-- Revokes an issued key. Answers 1, or 0 where there is no such key or it was revoked before.
--
-- ARGV  digest, when

local known = redis.call('HGET', ISSUED, ARGV[1])
if not known then
  return 0
end
local row = cmsgpack.unpack(known)
if row[4] ~= '0' then
  return 0
end
row[4] = ARGV[2]
local sequence = redis.call('HINCRBY', META, 'keys', 1)
redis.call('HSET', ISSUED, ARGV[1], cmsgpack.pack(row))
redis.call('ZADD', ISSUED_ORDER, sequence, ARGV[1])
return 1
