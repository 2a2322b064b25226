--! keys: counters journal opening
-- The books, whole, for whoever checks them: {counters, opening balances, journal}.

return {redis.call('HGETALL', COUNTERS), redis.call('HGETALL', OPENING), redis.call('LRANGE', JOURNAL, 0, -1)}
