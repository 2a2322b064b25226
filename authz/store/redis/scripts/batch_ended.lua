--! keys: belongings_due
-- ARGV  the id of a batch that nobody has to look after any more

return redis.call('ZREM', BELONGINGS_DUE, ARGV[1])
