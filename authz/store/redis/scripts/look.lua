--! keys: counters raised
--! with: moment tally window
-- How counters stand. Nothing is written.
--
-- ARGV  the moment; msgpack: the counters as in window.lua
-- Answers {now, 'done', values, raises}, or {now, 'clock'} where the moment is outside the periods that came.

local now = moment(ARGV[1])
local found = accounts(cmsgpack.unpack(ARGV[2]), tonumber(now:sub(1, 16)))
if not found then
  return {now, 'clock'}
end
local values, raised = told_of(found)
return {now, 'done', values, raised}
