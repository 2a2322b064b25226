--! keys: limits
--! with: moment
-- How a counter stands. Nothing is written.
--
-- ARGV  the moment; the name
-- Answers {now, value}, as in limits_rows.lua; false for none.

return {moment(ARGV[1]), redis.call('HGET', LIMITS, ARGV[2])}
