--! keys: belongings belongings_due
--! with: moment
-- Hands out batches that somebody has to look after, the longest overdue first, to one caller at a time. Times are in seconds.
--
-- ARGV  the moment; for how many seconds they are the caller's; how many at most
-- Answers their rows

local now = tonumber(moment(ARGV[1]):sub(1, 10))
local answer = {}
for _, id in ipairs(redis.call('ZRANGEBYSCORE', BELONGINGS_DUE, '-inf', now, 'LIMIT', 0, ARGV[3])) do
  local row = redis.call('HGET', BELONGINGS, id)
  if row then
    redis.call('ZADD', BELONGINGS_DUE, now + tonumber(ARGV[2]), id)
    answer[#answer + 1] = row
  else
    redis.call('ZREM', BELONGINGS_DUE, id)
  end
end
return answer
