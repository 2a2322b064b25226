--! keys: key_uses
-- When each issued key was used last: digest, moment, digest, moment, ...

return redis.call('HGETALL', KEY_USES)
