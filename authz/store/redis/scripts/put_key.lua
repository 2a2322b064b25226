--! keys: issued issued_order meta
-- Puts the row of an issued key. What is revoked stays revoked.
--
-- ARGV  digest, key, created, expires, revoked, note; times are decimal digits, for nanoseconds are no numbers of Lua's
-- Answers the key that the digest belongs to.

local known = redis.call('HGET', ISSUED, ARGV[1])
local revoked = ARGV[5]
if known then
  known = cmsgpack.unpack(known)
  if known[1] ~= ARGV[2] then
    return known[1]
  end
  if known[4] ~= '0' then
    revoked = known[4]
  end
end
local sequence = redis.call('HINCRBY', META, 'keys', 1)
redis.call('HSET', ISSUED, ARGV[1], cmsgpack.pack({ARGV[2], ARGV[3], ARGV[4], revoked, ARGV[6]}))
redis.call('ZADD', ISSUED_ORDER, sequence, ARGV[1])
return ARGV[2]
