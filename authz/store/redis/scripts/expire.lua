--! keys: counters raised heads bodies requests deadlines ended journal usage days told alerts meta
--! with: moment tally window index ending
-- Posts the estimates of reservations whose deadline has passed, the oldest first.
--
-- ARGV  the moment; how many at most
-- Answers each as `finish`.

local now = moment(ARGV[1])
local answers = {}
-- A colon comes after every digit: up to the moment itself, whatever follows it.
for _, member in ipairs(redis.call('ZRANGEBYLEX', DEADLINES, '-', '[' .. now .. ':', 'LIMIT', 0, ARGV[2])) do
  answers[#answers + 1] = finish(id_of(member), 'expire', nil, now)
end
return answers
