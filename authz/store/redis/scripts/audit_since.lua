--! keys: audit
-- Entries of the audit chain after number ARGV[1], ARGV[2] of them at most; after -1 the last one.

local from = tonumber(ARGV[1])
return redis.call('LRANGE', AUDIT, from, from < 0 and -1 or from + ARGV[2] - 1)
