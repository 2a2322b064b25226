--! keys: limits limits_ends
--! with: moment tally window limits_rows
-- Counts amounts in sliding windows: all of them or none.
--
-- ARGV  the moment; how long in seconds a row stays after its end; how many of those to forget; then for each counter its name,
--       the length of a sub-bucket in microseconds, the limit, the amount
-- Answers 1 where all are counted, 0 where one did not fit.

local now = moment(ARGV[1])
local now_us = tonumber(now:sub(1, 16))
local found = {}
for at = 4, #ARGV, 4 do
  local counter, amount = {ARGV[at], SLIDING, tonumber(ARGV[at + 1])}, tonumber(ARGV[at + 3])
  local tally, ends = row_of(counter[1])
  local bucket = bucket_at(counter, now_us)
  bucket = math.max(bucket, newest(tally) or bucket)
  -- Never a sum of the two: it might not be exact.
  if amount > tonumber(ARGV[at + 2]) - used(tally, oldest_live(counter, bucket)) then
    return 0
  end
  found[#found + 1] = {counter, tally, ends, bucket, amount}
end
for _, each in ipairs(found) do
  local counter, tally, ends, bucket, amount = unpack(each, 1, 5)
  tally = charged(tally, oldest_live(counter, bucket), 0, bucket, amount)
  put_row(counter[1], tally, ends_of(counter, bucket, now), ends)
end
forget_ended(shifted(now, -ARGV[2], 0), ARGV[3])
return 1
