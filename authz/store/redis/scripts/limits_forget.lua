--! keys: limits limits_ends
--! with: tally limits_rows
-- Forgets counters.
--
-- ARGV  their names

for _, name in ipairs(ARGV) do
  local _, ends = row_of(name)
  redis.call('HDEL', LIMITS, name)
  if ends then
    redis.call('ZREM', LIMITS_ENDS, ends .. name)
  end
end
return #ARGV
