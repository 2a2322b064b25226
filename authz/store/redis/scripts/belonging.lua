--! keys: belongings
-- ARGV  the id of a file or a batch

return redis.call('HGET', BELONGINGS, ARGV[1])
