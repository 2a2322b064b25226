--! keys: key_uses
-- When issued keys were used last. An earlier moment than is known changes nothing.
--
-- ARGV  digest, moment, digest, moment, ...

for at = 1, #ARGV, 2 do
  local known = redis.call('HGET', KEY_USES, ARGV[at])
  if not known or known < ARGV[at + 1] then
    redis.call('HSET', KEY_USES, ARGV[at], ARGV[at + 1])
  end
end
return 1
