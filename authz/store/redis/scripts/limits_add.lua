--! keys: limits limits_ends
--! with: moment tally limits_rows
-- Counts an amount in a fixed window: one bucket that nothing leaves, in a row that ends as a whole.
--
-- ARGV  the moment; how long in seconds a row stays after its end; how many of those to forget; the name; the window's length in
--       seconds; the amount
-- Answers what is counted now: at most one above MAX, which is above every limit.

local now = moment(ARGV[1])
local name = ARGV[4]
local tally, ends_before = row_of(name)
local ends = ends_before
if not ends or ends <= now then
  tally, ends = EMPTY, shifted(now, ARGV[5], 0)
end
local counted = total(tally)
local amount = math.min(tonumber(ARGV[6]), MAX + 1 - counted)
put_row(name, charged(tally, 0, 0, 0, amount), ends, ends_before)
forget_ended(shifted(now, -ARGV[2], 0), ARGV[3])
return counted + amount
