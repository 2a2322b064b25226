--! keys: meta
-- The version of what is kept, which a new store takes from us.
--
-- ARGV  our version

redis.call('HSETNX', META, 'version', ARGV[1])
return tonumber(redis.call('HGET', META, 'version'))
