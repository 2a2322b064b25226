--! keys: counters raised heads bodies requests deadlines ended journal usage days told alerts meta
--! with: moment tally window index ending
-- Settles or voids reservations, in order.
--
-- ARGV  the moment; of each the reservation's id, 'settle' or 'void', msgpack {amounts = {meter = amount}, usage = {input, cached,
--       output}}
-- Answers for each as `finish`.

local now = moment(ARGV[1])
local answers = {}
for at = 2, #ARGV, 3 do
  answers[#answers + 1] = finish(ARGV[at], ARGV[at + 1], cmsgpack.unpack(ARGV[at + 2]), now)
end
return answers
