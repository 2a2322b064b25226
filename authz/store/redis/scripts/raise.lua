--! keys: counters names raised raises raise_ids meta
--! with: moment tally window
-- Raises the limit of a budget's counter for the period that it is in. An id that is known changes nothing.
--
-- ARGV  the moment; msgpack: the counter as in window.lua; the raise's id; by how much; quota, scope, who, why
-- Answers {now, 'done', value, raised} as it stands then; {now, 'beyond', raised} where the raises of the period would add up to more than
-- an amount may be; {now, 'clock'} where the moment is outside the periods that came.

local now = moment(ARGV[1])
local counter = cmsgpack.unpack(ARGV[2])
local found = accounts({counter}, tonumber(now:sub(1, 16)))
if not found then
  return {now, 'clock'}
end
local account = found[1]
if redis.call('SISMEMBER', RAISE_IDS, ARGV[3]) == 0 then
  local by = tonumber(ARGV[4])
  local sum = account.raised + by
  if sum > MAX or sum < -MAX then
    return {now, 'beyond', string.format('%.0f', account.raised)}
  end
  -- It opens the period, as a charge of 0 would: what counts in the period has to know of it.
  charge(counter, account, 0)
  save({counter}, found, now)
  account.raised = sum
  redis.call('HSET', RAISED, raise_field(counter[1], account.bucket), string.format('%.0f', sum))
  redis.call('SADD', RAISE_IDS, ARGV[3])
  redis.call('RPUSH', RAISES, cmsgpack.pack({
    ARGV[3], ARGV[5], ARGV[6], counter[1], account.bucket, by, ARGV[7], ARGV[8], now,
  }))
end
local values, raised = told_of(found)
return {now, 'done', values[1], raised}
