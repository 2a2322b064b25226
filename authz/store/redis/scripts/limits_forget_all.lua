--! keys: limits limits_ends
-- Forgets all counters. Answers how many there were.

local many = redis.call('HLEN', LIMITS)
redis.call('UNLINK', LIMITS, LIMITS_ENDS)
return many
